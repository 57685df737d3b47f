"""Where the steps are computed: here and plainly, or by Lightning Fabric on accelerators and in several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.extras import need

B = TypeVar("B")
Precision = Literal["32", "bf16"]
Accelerator = Literal["cpu", "cuda", "mps", "auto"]


class Engine(Protocol):
    """What the loop leaves to others; each of several processes has its own, with a rank."""

    rank: int
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]: ...  # noqa: D102 - for the forward pass
    def share(self, batch: B) -> B: ...  # noqa: D102 - this process's part of a batch, on its device
    def backward(self, loss: Tensor, module: nn.Module) -> None: ...  # noqa: D102 - gradients of all processes
    def average(self, value: Tensor) -> Tensor: ...  # noqa: D102 - over processes; slopes as if there were one
    def align(self, module: nn.Module) -> None: ...  # noqa: D102 - buffers, which each process counts by itself


class Alone:
    """One process, the module's own device.

    Args:
        precision: `bf16` computes forward passes in bfloat16 and keeps weights in float32.
    """

    rank = 0
    device = torch.device("cpu")

    def __init__(self, precision: Precision = "32") -> None:
        self.precision = precision

    def autocast(self) -> AbstractContextManager[Any]:  # noqa: D102
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def share(self, batch: B) -> B:  # noqa: D102
        return batch

    def backward(self, loss: Tensor, _module: nn.Module) -> None:  # noqa: D102
        loss.backward()  # type: ignore[no-untyped-call]

    def average(self, value: Tensor) -> Tensor:  # noqa: D102
        return value

    def align(self, _module: nn.Module) -> None:  # noqa: D102
        return


class Distributed:
    """Fabric's device, precision and processes.

    Every process takes its share of every batch, and gradients are averaged after the backward pass. The module is not
    wrapped: the hooks of DistributedDataParallel do not see gradients that an objective takes itself.

    Args:
        fabric: Launched.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.device = fabric, int(fabric.global_rank), fabric.device
        self._weight = 1.0

    def autocast(self) -> AbstractContextManager[Any]:  # noqa: D102
        found: AbstractContextManager[Any] = self.fabric.autocast()
        return found

    def share(self, batch: B) -> B:  # noqa: D102
        if not isinstance(batch, tuple):
            raise TypeError(f"several processes share batches that are tuples of tensors; found {type(batch).__name__}")
        world, size = self.fabric.world_size, len(batch[0])
        own = slice(self.rank, None, world) if self.rank < size else slice(1)  # a mean over no sample is NaN
        parts = tuple(tensor[own].to(self.device) for tensor in batch)
        self._weight = len(parts[0]) * world / size if self.rank < size else 0.0
        return parts  # type: ignore[return-value]

    def backward(self, loss: Tensor, module: nn.Module) -> None:  # noqa: D102
        (loss * self._weight).backward()  # type: ignore[no-untyped-call]
        for parameter in _trainable(module):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.fabric.all_reduce(gradient, reduce_op="mean")

    def average(self, value: Tensor) -> Tensor:  # noqa: D102
        mean: Tensor = self.fabric.all_reduce(value.detach() * self._weight, reduce_op="mean")
        return value + (mean - value.detach())

    def align(self, module: nn.Module) -> None:  # noqa: D102
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.fabric.all_reduce(buffer.clone(), reduce_op="mean"))


def _trainable(module: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def device_of(module: nn.Module) -> torch.device:
    """Where its weights lie."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def make_engine(*, accelerator: Accelerator = "cpu", devices: int = 1, precision: Precision = "32") -> Engine:
    """The plain engine where that is enough, else Fabric's.

    With several devices the command is started again for each further process; `torchrun` works as well.

    Args:
        accelerator: `cpu`, `cuda`, `mps` or `auto`.
        devices: Processes, one per device.
        precision: `bf16` computes forward passes in bfloat16 and keeps weights in float32. Scaled float16 is left out:
            its scale changes the gradients that an objective remembers.

    Raises:
        MissingExtraError: More than the plain engine is asked for, and Lightning Fabric is not installed.
        TrainingError: There is no such accelerator here, or not as many devices.
    """
    if (accelerator, devices) == ("cpu", 1):
        return Alone(precision)
    fabric_module = need("lightning_fabric", doing="training on accelerators or in several processes", extra="train")
    numbers = "bf16-mixed" if precision == "bf16" else "32-true"
    try:
        fabric = fabric_module.Fabric(accelerator=accelerator, devices=devices, precision=numbers)
    except (RuntimeError, fabric_module.utilities.exceptions.MisconfigurationException) as error:
        raise TrainingError(
            f"training with accelerator {accelerator!r} and {devices} of its devices: {error} Take those that are "
            "there, or accelerator: auto"
        ) from error
    fabric.launch()
    return Distributed(fabric)
