"""Batch norm that is cheap to differentiate twice: torch's own is the reference."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sparsense.training.batch_norm import LeanBatchNorm, batch_norm
from sparsense.training.objectives import Context, make_objective


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs far from mean 0, weights of both signs, biases."""
    generator = torch.Generator().manual_seed(0)
    inputs = 3 + 2 * torch.randn(shape, generator=generator, dtype=dtype)
    weight, bias = torch.randn((2, shape[1]), generator=generator, dtype=dtype)
    return tuple(value.requires_grad_() for value in (inputs, weight, bias))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 2, 4, 3)])
def test_first_and_second_derivatives_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    given = drawn(shape)
    assert torch.autograd.gradcheck(batch_norm, given)
    assert torch.autograd.gradgradcheck(batch_norm, given)


def slopes_of_slopes(norm: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Of a loss that looks at the gradients of inputs, weight and bias."""
    output = norm(inputs)
    wanted = [inputs, *norm.parameters()]
    first = torch.autograd.grad(output.pow(3).sum(), wanted, create_graph=True)
    return [output.detach(), *torch.autograd.grad(sum(each.square().sum() for each in first), wanted)]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_gives_what_it_gives_without(momentum: float | None) -> None:
    inputs, weight, bias = drawn((5, 4, 3, 3))
    usual = nn.BatchNorm2d(4, momentum=momentum, dtype=torch.float64)
    with torch.no_grad():
        usual.weight.copy_(weight)
        usual.bias.copy_(bias)
    lean = deepcopy(usual)
    expected = slopes_of_slopes(usual, inputs)
    with LeanBatchNorm():
        found = slopes_of_slopes(lean, inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(lean.state_dict(), usual.state_dict())


def nodes(output: Tensor) -> set[str]:
    """Names of the steps that a gradient would take."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return {node.name() for node in seen if node is not None}


@pytest.mark.parametrize("kind", ["evaluation mode", "without weights"])
def test_other_batch_norms_are_left_alone(kind: str) -> None:
    norm = nn.BatchNorm1d(3, affine=kind != "without weights").train(kind != "evaluation mode")
    inputs = torch.randn(4, 3, requires_grad=True)
    with LeanBatchNorm():
        assert nodes(norm(inputs)) >= {"NativeBatchNormBackward0"}
        assert "_NormalisedBackward" in nodes(nn.BatchNorm1d(3)(inputs))


def test_a_batch_of_one_value_per_channel_is_still_refused() -> None:
    with LeanBatchNorm(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.zeros(1, 3))


@pytest.mark.parametrize("objective", ["gradient_regularization", "gradcon"])
def test_objectives_are_what_they_are_with_torchs_own(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [after_two_steps(objective)]
    monkeypatch.setattr("sparsense.training.batch_norm._suits", lambda **_: False)
    found.append(after_two_steps(objective))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def after_two_steps(objective: str) -> dict[str, Tensor]:
    """The gradients of the second step: GradCon's first one has no second derivative."""
    torch.manual_seed(0)
    width = 3 if objective == "gradient_regularization" else 6
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    module = nn.ModuleDict({"encoder": body, "decoder": nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh())})
    module["decoder"].append(nn.Linear(8, width))
    network = nn.Sequential()
    network.encoder, network.decoder = module["encoder"], module["decoder"]
    options = {"margin_in": 0.0, "margin_out": 1.0} if width == 3 else {"alpha": 1.0}
    made = make_objective(objective, options, Context(outliers=torch.randn(16, 6)))
    inputs, labels = torch.rand(8, 6), torch.arange(8) % 3
    for _ in range(2):
        network.zero_grad()
        made(network, (inputs, labels)).backward()
        if hasattr(made, "after_backward"):
            made.after_backward(network)
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
