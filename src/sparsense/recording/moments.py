"""Moments over samples of weight and gate sensitivities, streamed in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.recording.batches import Arrays, Samples
from sparsense.recording.capture import Capture, capturing
from sparsense.recording.layers import (
    channel_axis,
    differentiable,
    evaluating,
    network_sha256,
    recorded_layers,
    weight_channels,
    weight_of,
)
from sparsense.recording.losses import Loss, loss_name, per_sample_loss
from sparsense.recording.per_sample import per_sample_weight_gradients, rows_are_samples, weight_gradient
from sparsense.recording.state import first_output, untouched
from sparsense.sensitivity import RecordInfo, SensitivityRecord

EPSILON = 1e-8
"""Added to the loss before dividing by it."""


def record_moments(
    module: nn.Module,
    inputs: Arrays,
    labels: Arrays | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> SensitivityRecord:
    """One streaming pass in evaluation mode over per-sample sensitivities.

    With g_i = dL_i/dw and e_i = w * g_i (for `raw_logit` divided by L_i + 1e-8), per weight:

    - `gradient` = mean g_i, `gradient_square` = mean g_i^2, `elasticity` = mean e_i,
      `elasticity_square` = mean e_i^2, and `input_square` = mean over samples of the sum over positions
      of the squared input that the weight multiplies;
    - per output channel, for a gate of value 1 on the layer's output y (bias included), s_i = sum over
      positions of y * dL_i/dy (for `raw_logit` divided as above): `mean`, `square` (mean of s_i^2) and
      `absolute` (mean of |s_i|).

    The sums are float64 and over single samples, so the batch size changes the numbers only by the rounding
    of the network's own arithmetic, and memory does not grow with the number of samples. Frozen parameters
    are recorded like others; modes, `requires_grad` flags and gradients stay as they are.

    Args:
        module: Any network; its first output counts when it returns several.
        inputs: `[N, ...]` as the network sees them (preprocessed).
        labels: `[N]` classes; without them losses over classes use the network's own prediction.
        loss: A name in `LOSSES`, or a function (outputs, inputs, labels) -> `[N]`.
        batch_size: How many samples go through the network at once.
        progress: Called with (samples done, all samples) after each batch.

    Raises:
        InputError: No samples, or labels that do not fit.
        UnsupportedLayerError: A weight that is computed from other parameters.
    """
    samples, layers = Samples(inputs, labels), recorded_layers(module)
    totals = Totals(layers)
    with untouched(module), evaluating(module), differentiable(module), capturing(layers) as capture:
        pass_over = Pass(module, layers, capture, per_sample_loss(loss), normalised=loss == "raw_logit")
        for x, y in samples.batches(batch_size, module):
            pass_over.add(x, y, totals)
            if progress is not None:
                progress(totals.samples, len(samples))
    info = RecordInfo(loss_name(loss), totals.loss / totals.samples, totals.samples,
                      network_sha256(module), samples.sha256())  # fmt: skip
    return totals.record(info)


@dataclass
class Totals:
    """Running float64 sums, and the record they make."""

    layers: dict[str, nn.Module]
    samples: int = 0
    loss: float = 0.0
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gates: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, name: str, moment: str, value: Tensor) -> None:
        """Add a sum over samples to one weight's moment."""
        _accumulate(self.moments.setdefault(name, {}), moment, value)

    def add_gates(self, name: str, gates: Tensor) -> None:
        """Add per-sample gate sensitivities `[rows, O]`."""
        table = self.gates.setdefault(name, {})
        for moment, values in (("mean", gates), ("square", gates.square()), ("absolute", gates.abs())):
            _accumulate(table, moment, values.sum(0))

    def record(self, info: RecordInfo) -> SensitivityRecord:
        """Means instead of sums; elasticities from what was summed."""
        moments = {}
        for name, layer in self.layers.items():
            sums = {key: (value / self.samples) for key, value in self.moments[name].items()}
            weight = weight_of(layer).detach().double()
            sums["elasticity"] = weight * sums.pop("scaled", sums["gradient"])
            sums["elasticity_square"] = weight.square() * sums.pop("scaled_square", sums["gradient_square"])
            moments[name] = {key: value.cpu().numpy() for key, value in sums.items()}
        gates = {n: {k: (v / self.samples).cpu().numpy() for k, v in t.items()} for n, t in self.gates.items()}
        return SensitivityRecord(moments, gates, info)


@dataclass
class Pass:
    """One network under one loss: adds batches to totals, sample by sample only where it must."""

    module: nn.Module
    layers: dict[str, nn.Module]
    capture: Capture
    loss: Loss
    normalised: bool
    rows_are_samples: bool | None = None  # found out on the first batch

    def add(self, inputs: Tensor, labels: Tensor | None, totals: Totals) -> None:
        """Add one batch; once rows are known not to be samples, each sample goes alone."""
        if self.rows_are_samples is False and len(inputs) > 1:
            for row in range(len(inputs)):
                part = slice(row, row + 1)
                self.add(inputs[part], None if labels is None else labels[part], totals)
            return None
        losses = self.forward(inputs, labels)
        if self.rows_are_samples is None:
            self.rows_are_samples = rows_are_samples(self.capture, self.layers, losses)
            if not self.rows_are_samples:
                return self.add(inputs, labels, totals)
        scale = 1 / (losses.detach().double() + EPSILON) if self.normalised else None
        self._add_layers(losses, scale, totals)
        totals.samples += len(losses)
        totals.loss += float(losses.detach().double().sum())
        return None

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Per-sample losses `[N]`, with everything captured on the way."""
        self.capture.clear()
        outputs = first_output(self.module, inputs)
        losses = self.loss(outputs, inputs, labels)
        if losses.shape != (len(inputs),):
            raise InputError(f"a loss must give one number per sample, [{len(inputs)}]; got {list(losses.shape)}")
        return losses

    def _add_layers(self, losses: Tensor, scale: Tensor | None, totals: Totals) -> None:
        names = [name for name, outputs in self.capture.outputs.items() for _ in outputs]
        outputs = [output for outputs in self.capture.outputs.values() for output in outputs]
        weights = [] if self.rows_are_samples else [weight_of(layer) for layer in self.layers.values()]
        gradients = torch.autograd.grad(losses.sum(), outputs + weights, allow_unused=True, materialize_grads=True)
        deltas: dict[str, list[Tensor]] = {}
        for name, delta in zip(names, gradients, strict=False):
            deltas.setdefault(name, []).append(delta)
        whole = dict(zip(self.layers, gradients[len(outputs) :], strict=False))
        for name, layer in self.layers.items():
            for rows, gradient in self._gradients(layer, name, deltas, whole):
                _add_gradients(totals, name, gradient, None if scale is None else scale[rows])
            totals.add(name, "input_square", self._input_square(layer, name))
            self._add_gates(name, layer, deltas.get(name, []), scale, totals)

    def _gradients(
        self, layer: nn.Module, name: str, deltas: dict[str, list[Tensor]], whole: dict[str, Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        if self.rows_are_samples:
            yield from per_sample_weight_gradients(layer, self.capture.inputs[name], deltas[name])
        else:
            yield slice(0, 1), whole[name][None]

    def _input_square(self, layer: nn.Module, name: str) -> Tensor:
        total = torch.zeros_like(weight_of(layer), dtype=torch.float64)
        for x, y in zip(self.capture.inputs.get(name, []), self.capture.outputs.get(name, []), strict=True):
            total += weight_gradient(layer, x.square(), torch.ones_like(y)).double()
        return total

    def _add_gates(
        self, name: str, layer: nn.Module, deltas: list[Tensor], scale: Tensor | None, totals: Totals
    ) -> None:
        axis, rows = (
            channel_axis(layer),
            1 if not self.rows_are_samples else len(self.capture.outputs[name][0]),
        )
        gates = torch.zeros(rows, weight_channels(layer), dtype=torch.float64, device=weight_of(layer).device)
        for output, delta in zip(self.capture.outputs.get(name, []), deltas, strict=True):
            products = (output.detach() * delta).movedim(axis, -1)
            gates += products.reshape(rows, -1, products.shape[-1]).double().sum(1)
        totals.add_gates(name, gates if scale is None else gates * scale[:, None])


def _add_gradients(totals: Totals, name: str, gradient: Tensor, scale: Tensor | None) -> None:
    totals.add(name, "gradient", gradient.sum(0, dtype=torch.float64))
    totals.add(name, "gradient_square", gradient.square().sum(0, dtype=torch.float64))
    if scale is not None:
        scaled = gradient.double() * scale.reshape(-1, *[1] * (gradient.ndim - 1))
        totals.add(name, "scaled", scaled.sum(0))
        totals.add(name, "scaled_square", scaled.square().sum(0))


def _accumulate(table: dict[str, Tensor], key: str, value: Tensor) -> None:
    if key in table:
        table[key] += value
    else:
        table[key] = value.clone()
