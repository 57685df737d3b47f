"""What went into and came out of every prunable layer in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.recording.layers import refuse_inference_mode
from sparsense.recording.state import first_input


@dataclass
class Capture:
    """Per layer name the inputs and outputs of its calls, in the order of the calls (one, unless shared).

    Outputs are on the path to the loss, so they can be differentiated with respect to.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the last forward pass."""
        self.inputs.clear()
        self.outputs.clear()

    def hook(self, name: str) -> Any:
        """A forward hook that captures one layer.

        The network goes on with a copy, so that it may work in place (`nn.ReLU(inplace=True)`) without changing
        what was captured; and outputs take gradients even where every parameter is frozen.
        """

        def capture(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            self.inputs.setdefault(name, []).append(first_input(args, kwargs).detach())
            self.outputs.setdefault(name, []).append(output)
            return output.clone()

        return capture


@contextmanager
def capturing(layers: Mapping[str, nn.Module]) -> Iterator[Capture]:
    """Capture the given layers inside the block; the hooks are gone afterwards."""
    refuse_inference_mode()
    capture = Capture()
    handles = [layer.register_forward_hook(capture.hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            yield capture
    finally:
        for handle in handles:
            handle.remove()
