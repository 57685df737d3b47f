"""Where a kernel looks: the geometry that Conv, ConvTranspose and the pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsense.autodiff.rule import Call
from sparsense.autodiff.shapes import all_known, dims


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a window: output q covers the inputs q * stride - begin + j * dilation, j = 0..kernel-1."""

    kernel: int
    stride: int
    begin: int
    end: int
    dilation: int

    @property
    def reach(self) -> int:
        """Distance from the first to the last element that one output sees."""
        return (self.kernel - 1) * self.dilation

    def outputs(self, size: int) -> int:
        """Number of outputs over that many inputs (without ceil_mode)."""
        return (size + self.begin + self.end - self.reach - 1) // self.stride + 1


@dataclass(frozen=True)
class Window:
    """The geometry of a node, axis by axis.

    Attributes:
        axes: The spatial axes.
        group: Number of channel groups that do not see each other.
        ceil: Whether a last, partial window counts (pools only).
    """

    axes: tuple[Axis, ...]
    group: int = 1
    ceil: bool = False

    @classmethod
    def of(cls, c: Call, kernel: Sequence[int] | None = None) -> Window:
        """Read a node's attributes; `auto_pad` is worked out from the sizes.

        Args:
            c: The node.
            kernel: Sizes of the kernel; default: the attribute.
        """
        sizes = tuple(kernel or c.attribute("kernel_shape"))
        count = len(sizes)
        strides, dilations = c.attribute("strides", [1] * count), c.attribute("dilations", [1] * count)
        pads = _pads(c, sizes, strides, dilations)
        axes = map(Axis, sizes, strides, pads[:count], pads[count:], dilations)
        return cls(tuple(axes), c.attribute("group", 1), bool(c.attribute("ceil_mode", 0)))

    @property
    def kernel(self) -> list[int]:
        """Sizes of the kernel."""
        return [axis.kernel for axis in self.axes]

    @property
    def strides(self) -> list[int]:
        """Steps between outputs."""
        return [axis.stride for axis in self.axes]

    @property
    def dilations(self) -> list[int]:
        """Steps between the kernel's elements."""
        return [axis.dilation for axis in self.axes]

    @property
    def pads(self) -> list[int]:
        """Padding before each axis, then behind each axis, as ONNX writes it."""
        return [*(axis.begin for axis in self.axes), *(axis.end for axis in self.axes)]

    def attributes(self) -> dict[str, list[int]]:
        """As attributes of a node."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
        }


def _pads(c: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    auto = c.attribute("auto_pad", "NOTSET")
    transposed = c.node.op_type == "ConvTranspose"
    if auto in ("NOTSET", "VALID") and not (transposed and "output_shape" in c.node.attributes):
        return list(c.attribute("pads", [0] * 2 * len(kernel)))
    reaches = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    totals = (_transposed_totals if transposed else _same_totals)(c, reaches, strides)
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*small, *large] if auto == "SAME_UPPER" else [*large, *small]


def _same_totals(c: Call, reaches: Sequence[int], strides: Sequence[int]) -> list[int]:
    """SAME: as many outputs as inputs over the stride, rounded up."""
    sizes = dims(c.x[0])[2:]
    if all(stride == 1 for stride in strides):
        return [reach - 1 for reach in reaches]
    if not all_known(sizes):
        raise c.refuse("pads by auto_pad=SAME over a free height or width; export it with explicit pads")
    return [max((-(-n // s) - 1) * s + reach - n, 0) for n, s, reach in zip(sizes, strides, reaches, strict=True)]


def _transposed_totals(c: Call, reaches: Sequence[int], strides: Sequence[int]) -> list[int]:
    """ConvTranspose: whatever the full result has more than the result that was asked for."""
    sizes, made = dims(c.x[0])[2:], dims(c.y[0])[2:]
    extra = c.attribute("output_padding", [0] * len(reaches))
    if not all_known([*sizes, *made]):
        raise c.refuse("has a free height or width together with auto_pad or output_shape; use explicit pads")
    return [s * (n - 1) + o + reach - m for n, m, s, o, reach in zip(sizes, made, strides, extra, reaches, strict=True)]
