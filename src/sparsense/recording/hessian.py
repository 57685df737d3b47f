"""Second-order passes: the Hessian times the gradient, and the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsense.errors import InputError
from sparsense.recording.batches import Arrays, Samples
from sparsense.recording.layers import (
    channel_axis,
    differentiable,
    evaluating,
    network_sha256,
    recorded_layers,
    refuse_inference_mode,
    weight_channels,
    weight_of,
)
from sparsense.recording.losses import Loss, loss_name, per_sample_loss
from sparsense.recording.state import first_output, untouched
from sparsense.sensitivity import Array, RecordInfo, SensitivityRecord


def record_hessian_gradient(
    module: nn.Module,
    inputs: Arrays,
    labels: Arrays | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    batch_size: int = 64,
    temperature: float = 1.0,
) -> SensitivityRecord:
    """Moments `gradient` (g) and `hessian_gradient` (H g) of every weight, and the gates of <g, grad L>.

    g and H are those of the mean loss over all samples, in evaluation mode, restricted to the prunable weights.
    The gate moment `hessian_gradient` of a channel is the derivative of <g, grad_w L> with respect to a
    multiplier 1 on the channel's output. Zeroed weights count as pruned: with m = 0 there and 1 elsewhere the
    products are H (m g) and those of <m g, grad L>; the moment `gradient` is g everywhere.

    Args:
        module: Any network that can be differentiated twice.
        inputs: `[N, ...]` as the network sees them.
        labels: `[N]`, or None for the network's own predictions.
        loss: A name in `LOSSES`, or a function.
        batch_size: Samples per batch; the result is that of all samples together.
        temperature: Outputs are divided by it (GraSP uses 200).

    Reference:
        Rachwan et al., "Winning the lottery ahead of time: efficient early network pruning", ICML 2022,
        arXiv:2206.10451; Wang et al., "Picking winning tickets before training by preserving gradient flow",
        ICLR 2020, arXiv:2002.07376.
    """
    samples, layers = Samples(inputs, labels), recorded_layers(module)
    weights = [weight_of(layer) for layer in layers.values()]
    criterion = tempered(per_sample_loss(loss), temperature)
    with twice_differentiable(module), gated(layers) as gates:
        losses = MeanLoss(module, samples, criterion, batch_size)
        gradient = [torch.zeros_like(weight) for weight in weights]
        for part in losses:
            _add(gradient, torch.autograd.grad(part, weights, allow_unused=True, materialize_grads=True))
        masked = [g * (weight.detach() != 0) for g, weight in zip(gradient, weights, strict=True)]
        products = [torch.zeros_like(tensor) for tensor in (*weights, *gates)]
        for part in losses:
            slope = torch.autograd.grad(part, weights, create_graph=True, allow_unused=True, materialize_grads=True)
            flow = torch.stack([(g * s).sum() for g, s in zip(masked, slope, strict=True)]).sum()
            _add(products, torch.autograd.grad(flow, (*weights, *gates), allow_unused=True, materialize_grads=True))
    moments = {
        name: {"gradient": _array(g), "hessian_gradient": _array(hg)}
        for name, g, hg in zip(layers, gradient, products, strict=False)
    }
    channels = zip(layers, products[len(weights) :], strict=True)
    gate_moments = {name: {"hessian_gradient": _array(product)} for name, product in channels}
    return SensitivityRecord(moments, gate_moments, losses.info(loss))


def record_hessian_diagonal(
    module: nn.Module,
    inputs: Arrays,
    labels: Arrays | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    probes: int | None = None,
    seed: int = 0,
) -> SensitivityRecord:
    """Moment `hessian_diagonal`: d^2 L / dw_j^2 of the mean loss, exactly or estimated.

    Exact: one backward pass per weight, so only for small networks. With `probes`, Hutchinson's estimate
    E[z * (H z)] over random signs z; its error falls with the square root of the number of probes.

    Args:
        module: Any network that can be differentiated twice.
        inputs: `[N, ...]`, all in one batch.
        labels: `[N]`, or None for the network's own predictions.
        loss: A name in `LOSSES`, or a function.
        probes: None for the exact diagonal, else the number of random vectors.
        seed: Of the random vectors.

    Reference:
        LeCun et al., "Optimal brain damage", NeurIPS 1989; Hutchinson, "A stochastic estimator of the trace of
        the influence matrix", Communications in Statistics 1990.
    """
    if probes is not None and probes < 1:
        raise InputError(f"probes must be at least 1, or None for the exact diagonal; got {probes}")
    samples, layers = Samples(inputs, labels), recorded_layers(module)
    weights = [weight_of(layer) for layer in layers.values()]
    with twice_differentiable(module):
        losses = MeanLoss(module, samples, per_sample_loss(loss), len(samples))
        slope = torch.autograd.grad(next(iter(losses)), weights, create_graph=True, materialize_grads=True)
        diagonal = (
            [_exact_diagonal(s, w) for s, w in zip(slope, weights, strict=True)]
            if probes is None
            else _hutchinson(slope, weights, probes, seed)
        )
    moments = {name: {"hessian_diagonal": _array(d)} for name, d in zip(layers, diagonal, strict=True)}
    return SensitivityRecord(moments, {}, losses.info(loss))


class MeanLoss:
    """The mean loss over all samples as a sum of parts, one per batch; can be walked again and again."""

    def __init__(self, module: nn.Module, samples: Samples, loss: Loss, batch_size: int) -> None:
        self.module, self.samples, self.loss, self.batch_size = module, samples, loss, batch_size
        self.value = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        self.value = 0.0
        for inputs, labels in self.samples.batches(self.batch_size, self.module):
            outputs = first_output(self.module, inputs)
            part = self.loss(outputs, inputs, labels).sum() / len(self.samples)
            self.value += float(part.detach())
            yield part

    def info(self, loss: str | Loss) -> RecordInfo:
        """Where a record of this loss comes from."""
        return RecordInfo(
            loss_name(loss), self.value, len(self.samples), network_sha256(self.module), self.samples.sha256()
        )


def tempered(loss: Loss, temperature: float) -> Loss:
    """The same loss of outputs divided by a temperature."""
    if not temperature > 0:
        raise InputError(f"temperature must be positive; got {temperature}")
    return loss if temperature == 1 else lambda outputs, *rest: loss(outputs / temperature, *rest)


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients on, and attention in a form that has second derivatives."""
    refuse_inference_mode()
    with untouched(module), evaluating(module), differentiable(module), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def gated(layers: dict[str, nn.Module]) -> Iterator[list[Tensor]]:
    """Multiply every layer's output channels by gates of value 1 inside the block; yields the gates."""
    gates = [weight_of(layer).new_ones(weight_channels(layer)).requires_grad_() for layer in layers.values()]
    with ExitStack() as hooks:
        for layer, gate in zip(layers.values(), gates, strict=True):
            handle = layer.register_forward_hook(_multiplier(gate, channel_axis(layer)))
            hooks.callback(handle.remove)
        yield gates


def _multiplier(gate: Tensor, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def multiply(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * (gate if axis == -1 else gate.reshape(-1, *[1] * (output.ndim - 2)))

    return multiply


def _exact_diagonal(slope: Tensor, weight: Tensor, chunk: int = 64) -> Tensor:
    # Rows of the Hessian, a chunk at a time; of each only its own entry is kept.
    diagonal = torch.zeros(weight.numel()).to(weight)
    if slope.requires_grad:
        for start in range(0, len(diagonal), chunk):
            own = torch.arange(start, min(start + chunk, len(diagonal)))
            directions = nn.functional.one_hot(own, len(diagonal)).to(weight).reshape(-1, *weight.shape)
            rows = torch.autograd.grad(
                slope, weight, directions, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )[0].flatten(1)
            diagonal[own] = rows[torch.arange(len(own)), own]
    return diagonal.reshape(weight.shape)


def _hutchinson(slope: tuple[Tensor, ...], weights: list[Tensor], probes: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    total = [torch.zeros_like(weight) for weight in weights]
    for _ in range(probes):
        signs = [(torch.randint(0, 2, w.shape, generator=generator) * 2 - 1).to(w) for w in weights]
        flow = torch.stack([(z * s).sum() for z, s in zip(signs, slope, strict=True)]).sum()
        rows = torch.autograd.grad(flow, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        _add(total, [z * row / probes for z, row in zip(signs, rows, strict=True)])
    return total


def _add(totals: list[Tensor], parts: tuple[Tensor, ...] | list[Tensor]) -> None:
    for total, part in zip(totals, parts, strict=True):
        total += part.detach()


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().double().cpu().numpy()
    return array
