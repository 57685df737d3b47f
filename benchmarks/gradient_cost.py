"""What per-sample sensitivities cost over the plain forward pass, in ONNX Runtime, one thread, interleaved rounds.

python benchmarks/gradient_cost.py [--network NAME ...] [--batch 1 8] [--rounds 20] [--torch] [--whole] [--out FILE]

Per round every variant runs once, in turn; the ratio to the plain forward pass is taken within the round, and its
median and quartiles are printed, with the ratio of the best times. `gates`: gate sensitivities of all layers;
`weights`: |w * dL/dw| of all layers; `last`: of the last quarter of the layers. Every variant runs as a detector would,
so many samples at once as its card would say; with --whole all at once. With --torch also a loop of backward passes,
vmap(grad), and hooks that keep activations and gradients and multiply them. Absolute times of a shared machine mean
little; ratios of the same rounds do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from families import FAMILIES, make
from sized_networks import SIZED
from torch import nn

from sparsense.autodiff import differentiate, gate_sensitivities, weighted_layers
from sparsense.autodiff.norms import sensitivity_norms
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector.micro_batch import micro_batch
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.networks import NETWORKS
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward

Call = Callable[[], object]


def module_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A family of `families.py`, or a registered network with random weights."""
    if name in FAMILIES:
        return make(name)
    torch.manual_seed(0)
    if name in SIZED:
        build, shape = SIZED[name]
        return build().eval(), shape
    module = NETWORKS[name]().eval()
    return module, tuple(getattr(module, "input_shape", (3, 32, 32)))


def forward_of(module: nn.Module, shape: tuple[int, ...]) -> ForwardGraph:
    preprocessing = Preprocessing(layout="ND" if len(shape) == 1 else "NCHW", dtype="float32", scale=1.0)
    exported = export_forward(Network(module, preprocessing, shape, source="benchmark"))
    return forward_graph(load_graph(exported), preprocessing)


def variants(network: ForwardGraph) -> tuple[dict[str, Sequence[ir.Value]], float]:
    """The values of every variant, and the seconds that building all of them took."""
    started, op, layers = perf_counter(), network.op, weighted_layers(network)
    top = op.ReduceMax(network.output, [1], keepdims=1)
    seed = op.Cast(op.Equal(network.output, top), to=int(ir.DataType.FLOAT))
    deltas = differentiate(op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)
    gates = gate_sensitivities(op, layers, deltas)
    norms = [sensitivity_norms(op, layer, deltas[layer.output])[0] for layer in layers]
    quarter = max(len(layers) // 4, 1)
    chosen = {"forward": [network.output], "gates": gates, "weights": norms, "last": norms[-quarter:]}
    return chosen, perf_counter() - started


def in_torch(module: nn.Module, inputs: np.ndarray) -> dict[str, Call]:
    """The same sensitivities by backward passes and by vmap(grad)."""
    weights = {name: w.detach() for name, w in module.named_parameters() if w.ndim > 1}
    batch = torch.tensor(inputs)

    def top(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, parameters, (x[None],)).max()

    def norms(gradients: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [(weights[name] * g).flatten(g.ndim - weights[name].ndim).norm(dim=-1) for name, g in gradients.items()]

    one = torch.func.grad(top)
    return {
        "torch forward": lambda: module(batch),
        "torch loop": lambda: [norms(one(weights, x)) for x in batch],
        "torch hooks": lambda: by_hooks(module, batch),
        "torch vmap": lambda: norms(torch.func.vmap(one, in_dims=(None, 0))(weights, batch)),
    }


def by_hooks(module: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    """One backward pass for all samples; hooks keep what every layer saw and the gradient that it received."""
    seen: dict[nn.Module, torch.Tensor] = {}
    received: dict[nn.Module, torch.Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[layer] = inputs[0].detach()
        output.register_hook(partial(received.__setitem__, layer))

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    module(batch).amax(1).sum().backward()
    for handle in handles:
        handle.remove()
    gradients = (weight_gradient(layer, seen[layer], received[layer]) for layer in layers)
    return [(g * layer.weight).flatten(1).norm(dim=1) for g, layer in zip(gradients, layers, strict=True)]


def weight_gradient(layer: nn.Module, x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Per-sample, [N, *weight]."""
    if isinstance(layer, nn.Linear):
        return torch.einsum("n...i,n...o->noi", x, d)
    columns = torch.nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    split = columns.reshape(len(x), layer.groups, -1, columns.shape[-1])
    product = torch.einsum("ngkp,ngop->ngok", split, d.reshape(len(x), layer.groups, -1, columns.shape[-1]))
    return product.reshape(len(x), *layer.weight.shape)


def in_slices(session: Session, size: int) -> Callable[[np.ndarray], object]:
    return lambda inputs: [session(inputs[start : start + size]) for start in range(0, len(inputs), size)]


def race(calls: dict[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every call in every round, in turn."""
    for call in calls.values():
        call(), call()
    times = {name: np.zeros(rounds) for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            started = perf_counter()
            call()
            times[name][turn] = perf_counter() - started
    return times


def file_bytes(network: ForwardGraph, outputs: Sequence[ir.Value]) -> int:
    return len(ir.to_proto(with_outputs(network.model, outputs)).SerializeToString())


def rows_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    module, shape = module_of(name)
    network = forward_of(module, shape)
    plain = len(ir.to_proto(network.model).SerializeToString())
    values, seconds = variants(network)
    sessions = {
        kind: in_slices(
            Session(network.model, outputs, threads=1),
            10**6 if options.whole else micro_batch(with_outputs(network.model, outputs)),
        )
        for kind, outputs in values.items()
    }
    grown = {
        kind: len(ir.to_proto(with_outputs(network.model, v)).SerializeToString()) / plain for kind, v in values.items()
    }
    print(f"{name}: {plain / 1e3:.0f} kB, all variants built in {seconds:.2f} s")
    rows = []
    for batch in options.batch:
        inputs = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
        calls: dict[str, Call] = {kind: partial(session, inputs) for kind, session in sessions.items()}
        times = race(calls | (in_torch(module, inputs) if options.torch else {}), options.rounds)
        for kind, taken in times.items():
            low, middle, high = np.quantile(taken / times["forward"], [0.25, 0.5, 0.75])
            best = taken.min() / times["forward"].min()
            size = grown.get(kind, 1.0)
            print(
                f"  batch {batch:3} {kind:14} {middle:6.2f} [{low:.2f}, {high:.2f}]  best {best:5.2f}"
                f"  {taken.min() * 1e3:9.3f} ms  file x{size:.3f}",
                flush=True,
            )
            row = {"network": name, "batch": batch, "variant": kind, "median": middle, "quartiles": [low, high]}
            rows.append(row | {"best": best, "milliseconds": taken.min() * 1e3, "file": size, "build_seconds": seconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="*", default=["cifar_resnet20", *SIZED])
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in options.network for row in rows_of(name, options)]
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
