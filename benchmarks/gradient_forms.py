"""What each form of the gradient's nodes gives: the time with the obvious form in its place, over the time as it is.

python benchmarks/gradient_forms.py [--network cifar_resnet20 resnet18_32 mobilenet_v2_32] [--batch 8] [--rounds 15]

Every row replaces one form by the one that comes to mind first, builds the graph again, and runs both in turn, in one
thread. Ratios above 1 say how much slower the obvious form is; `-` where it makes the same graph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import torch
from gradient_cost import forward_of, in_slices, module_of, race, variants

from sparsense.autodiff import gates, masks, unfold
from sparsense.autodiff.rules import convolution
from sparsense.detector.micro_batch import micro_batch
from sparsense.graph import Session
from sparsense.graph.run import with_outputs

weights = sys.modules["sparsense.autodiff.weight_gradient"]  # the package's name for it is the function
HUGE = 2**60


def residues(op: Any, delta: Any, like: Any, weight: Any, window: Any) -> Any:
    return convolution._convolve_residues(op, delta, like, convolution._adjoint(op, weight, 1), window)


def transposed(op: Any, delta: Any, like: Any, weight: Any, window: Any) -> Any:
    """Of depthwise convolutions, whose kernel is its own adjoint."""
    sizes = zip(like.shape[2:], delta.shape[2:], window.axes, strict=True)
    unseen = [n - ((q - 1) * axis.stride + axis.reach + 1 - axis.begin - axis.end) for n, q, axis in sizes]
    return op.ConvTranspose(delta, weight, **window.attributes(), group=window.group, output_padding=unseen)


def depth_to_space(op: Any, phases: Any, _: Any, strides: Any) -> Any:
    return op.DepthToSpace(phases, blocksize=strides[0])


def products(op: Any, layer: Any, delta: Any, window: Any) -> Any:
    weight = weights.weight_value(op, layer)
    return weights._patch_products(op, layer.activation, delta, weight, window)


FORMS: dict[str, list[tuple[Any, str, Any]]] = {
    "masks as comparisons": [(masks, "fits", lambda _: False)],
    "gate sums by ReduceSum": [(gates, "_is_averaged", lambda _: False)],
    "strides from residues": [(convolution, "_convolve_transposed", residues)],
    "depthwise strides by ConvTranspose": [(convolution, "_convolve_residues", transposed)],
    "depthwise strides woven by DepthToSpace": [(convolution, "_weave_channels_last", depth_to_space)],
    "no way back into the blocked layout": [(convolution, "into_blocks", lambda _, value, *__: value)],
    "depthwise weights by matrix products": [(weights, "_depthwise", products)],
    "gradient of a layer in one block": [(weights, "LARGEST", HUGE)],
    "maps of 4 KiB as they are": [(unfold, "PAGE", HUGE)],
}


def build(name: str, form: str | None) -> dict[str, tuple[ir.Model, Any]]:
    """The graphs of the gates and of the weights, with one form replaced."""
    torch.manual_seed(0)
    module, shape = module_of(name)
    network = forward_of(module, shape)
    with ExitStack() as stack:
        for target, attribute, other in FORMS.get(form or "", []):
            stack.enter_context(patch.object(target, attribute, other))
        values, _ = variants(network)
    return {kind: (network.model, values[kind]) for kind in ("gates", "weights")}


def session(graph: tuple[ir.Model, Any], *, whole: bool = False) -> Callable[[np.ndarray], object]:
    size = HUGE if whole else micro_batch(with_outputs(*graph))
    return in_slices(Session(*graph, threads=1), size)


def nodes(graph: tuple[ir.Model, Any]) -> list[str]:
    return [node.op_type for node in with_outputs(*graph).graph]


def compare(name: str, form: str, inputs: np.ndarray, rounds: int) -> list[str]:
    """Ratio and quartiles for the gates and for the weights."""
    usual, other = build(name, None), build(name, form)
    cells = []
    for kind in usual:
        if form != "the whole batch at once" and nodes(usual[kind]) == nodes(other[kind]):
            cells.append("-")
            continue
        ours, theirs = session(usual[kind]), session(other[kind], whole=form == "the whole batch at once")
        times = race({"ours": partial(ours, inputs), "theirs": partial(theirs, inputs)}, rounds)
        low, middle, high = np.quantile(times["theirs"] / times["ours"], [0.25, 0.5, 0.75])
        cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="*", default=["cifar_resnet20", "resnet18_32", "mobilenet_v2_32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.network:
        _, shape = module_of(name)
        inputs = np.random.default_rng(0).normal(size=(options.batch, *shape)).astype(np.float32)
        print(f"\n{name}, batch {options.batch}\n\n| the obvious form | gates | weights |\n|---|---|---|", flush=True)
        for form in (*FORMS, "the whole batch at once"):
            print(f"| {form} | {' | '.join(compare(name, form, inputs, options.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
