"""What happens to an input before the network sees it: (x * scale - mean) / std, float32, channels first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsense.data.columns import Column, Encoding

Layout = Literal["NHWC", "NCHW", "ND"]


@dataclass(frozen=True)
class Preprocessing:
    """The one description of an input, carried by networks, detectors and cards.

    y = (x * scale - mean) / std, float32, `[N, C, H, W]` (or `[N, D]` for layout "ND").

    Args:
        layout: Order of the axes of the input as the user gives it.
        dtype: `uint8` (images) or `float32`.
        scale: Multiplies the raw input; 1/255 brings uint8 images to [0, 1].
        mean: Per channel (or a single number, or one per feature), in the scaled unit.
        std: Like `mean`; positive.
        columns: Of a table with words and gaps: how its rows become numbers, before all else.
    """

    layout: Layout = "NHWC"
    dtype: Literal["uint8", "float32"] = "uint8"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    columns: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in ("NHWC", "NCHW", "ND"):
            raise ValueError(f"layout must be NHWC, NCHW or ND; got {self.layout!r}")
        if self.dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype must be uint8 or float32; got {self.dtype!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {self.std}")
        if self.columns and (self.layout, self.dtype) != ("ND", "float32"):
            raise ValueError(f"a table's columns need layout ND and dtype float32; got {self.layout} and {self.dtype}")

    @property
    def encoding(self) -> Encoding | None:
        """How the rows of a table become numbers of the network; None where they are these numbers."""
        return Encoding(self.columns) if self.columns else None

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same map as y = x * a + b, with a and b shaped to broadcast against the network's input."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        mean, std = np.broadcast_arrays(mean, std)
        shape = (1, -1) if self.layout == "ND" else (1, -1, 1, 1)
        scale, shift = self.scale / std, -mean / std
        return scale.reshape(shape).astype(np.float32), shift.reshape(shape).astype(np.float32)

    def arrange(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images as datasets hold them, [N, H, W, C], in this layout; tables stay as they are."""
        return np.ascontiguousarray(np.moveaxis(images, -1, 1)) if self.layout == "NCHW" else images

    def apply(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The numpy form.

        Example:
            >>> Preprocessing(mean=(0.5,), std=(0.5,)).apply(np.full((1, 2, 2, 1), 255, np.uint8)).shape
            (1, 1, 2, 2)
        """
        encoded = inputs if self.encoding is None else self.encoding.apply(inputs)
        array = np.moveaxis(encoded, -1, 1) if self.layout == "NHWC" else encoded
        scale, shift = self.affine()
        result = np.empty(array.shape, np.float32)  # in plain C order, also where an axis of size 1 leaves a choice
        np.multiply(array, scale, out=result)
        result += shift
        return result

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back. The columns of a table say in words what they mean."""
        fields = asdict(self)
        del fields["columns"]
        return fields if self.encoding is None else {**fields, "columns": self.encoding.to_list()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`, also after a trip through JSON."""
        columns = Encoding.from_list(fields.get("columns", ())).columns
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "columns"}
        return cls(**plain, columns=columns)
