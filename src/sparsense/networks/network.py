"""A network: a torch module and what one must know to feed it, judge its output and make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.data.columns import Column, Encoding
from sparsense.data.preprocessing import Layout, Preprocessing
from sparsense.errors import InputError
from sparsense.registry import Registry

Task = Literal["classifier", "reconstruction"]

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
"""Name -> function returning an `nn.Module` that may declare `input_shape`, `preprocessing` and `task`."""

# What somebody else's code may raise when it does not fit its options or its input.
FORWARD_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip


@dataclass
class Network:
    """A module in evaluation mode and float32, with its input and its origin.

    Args:
        module: Maps float32 `[N, *input_shape]` to logits `[N, K]`, or to a reconstruction of its input.
        preprocessing: What turns a user's input into the module's.
        input_shape: `(C, H, W)` or `(D,)`, without the batch.
        task: What the output is.
        source: A registered name or `package.module:function`: how to make the class again.
        options: Keyword arguments of that function.
        remembered: What training has kept for a detector, by the names of parameters: GradCon's mean gradients.
    """

    module: nn.Module
    preprocessing: Preprocessing
    input_shape: tuple[int, ...]
    task: Task = "classifier"
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    remembered: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers the network learnt."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def seen(self, inputs: NDArray[Any]) -> Tensor:
        """A user's inputs as the module takes them."""
        return torch.from_numpy(self.preprocessing.apply(self.preprocessing.arrange(inputs)))

    def in_layout(self, layout: str) -> Network:
        """The same network for inputs in another order of the axes; rows of numbers have only one."""
        if self.preprocessing.layout == "ND":
            return self
        return replace(self, preprocessing=replace(self.preprocessing, layout=cast(Layout, layout)))

    def for_columns(self, columns: tuple[Column, ...]) -> Network:
        """The same network behind the encoding of a table; without columns nothing changes.

        Raises:
            InputError: It takes another number of features than the table has, or was trained behind another encoding.
        """
        if not columns:
            return self
        if self.preprocessing.columns:
            _check_same_encoding(self.source, self.preprocessing.columns, columns)
        features = Encoding(columns).features
        if self.input_shape != (len(features),):
            raise InputError(
                f"network {self.source!r} takes inputs {list(self.input_shape)}; the table's {len(columns)} columns "
                f"become {len(features)} numbers ({', '.join(features[:8])}{', ...' if features[8:] else ''}): make "
                f"the network for {len(features)} features"
            )
        return replace(self, preprocessing=replace(self.preprocessing, columns=columns))


def _check_same_encoding(source: str, own: tuple[Column, ...], columns: tuple[Column, ...]) -> None:
    """Numbers would be scaled otherwise, or stand for other words, than those that the network learnt from."""
    if own == columns:
        return
    pairs = ((a, b) for a, b in zip_longest(own, columns) if a != b)
    was, now = next(("nothing" if c is None else f"{c.name!r}: {c.describe()}" for c in pair) for pair in pairs)
    raise InputError(
        f"network {source!r} was trained behind another encoding of its table: there {was}; here {now}. Encode this "
        "table as that one with the option like: TABLE_OF_THE_TRAINING, or train from new weights"
    )


def example_input(input_shape: tuple[int, ...], *, batch: int = 2, seed: int = 0) -> Tensor:
    """Standard normal numbers `[batch, *input_shape]`, the same for the same seed."""
    return torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(seed))


def behaviour(network: Network) -> str:
    """A hash of what a network answers to `example_input`, and of its parts: tensors do not tell of changed code."""
    digest = hashlib.sha256(check_forward(network).cpu().contiguous().numpy().tobytes())
    for name, part in network.module.named_modules():  # such as the rate of a dropout, which no answer shows
        plain = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str)}
        plain.pop("training", None)
        digest.update(f"{name} {type(part).__qualname__} {sorted(plain.items())}".encode())
    return digest.hexdigest()


@torch.no_grad()
def check_forward(network: Network) -> Tensor:
    """Run two samples through the network and refuse what does not fit its task.

    Returns:
        The output, `[2, K]` or `[2, *input_shape]`.

    Raises:
        InputError: The forward pass failed, or its output is not what the task promises.
    """
    inputs = example_input(network.input_shape)
    doing = f"network {network.source!r} on a float32 input {list(inputs.shape)}"
    try:
        output = network.module(inputs)
    except FORWARD_ERRORS as error:
        raise InputError(
            f"{doing}: the forward pass failed with {type(error).__name__}: {error}. "
            "Is input_shape what the network sees, without the batch?"
        ) from error
    _check_output(output, network, doing)
    return output  # type: ignore[no-any-return]


def _check_output(output: Any, network: Network, doing: str) -> None:
    reconstruction = network.task == "reconstruction"
    expected = [2, *network.input_shape] if reconstruction else "[2, classes]"
    found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    fits = found == expected if reconstruction else isinstance(found, list) and len(found) == 2 and found[0] == 2
    if not fits:
        raise InputError(f"{doing}: a {network.task} returns one tensor {expected}; found {found}")
    if not torch.isfinite(output).all():
        raise InputError(f"{doing}: the output holds NaN or infinity. Are the weights and the preprocessing right?")
