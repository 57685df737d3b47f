"""What pruning gains in ONNX Runtime: dense, masked, channels as selected, rounded, and aligned by measurement.

Variants are timed in interleaved rounds against the dense network; only the ratios are worth quoting.

python benchmarks/pruning_speed.py --network cifar_resnet20 --sparsity 0.3 --batches 1 32
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.machine import this_machine, versions
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.networks.load import load_network
from sparsense.networks.network import Network, example_input
from sparsense.pruning.align import align_widths
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.patterns import select_n_of_m
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.weights import select_weights
from sparsense.recording.layers import layouts
from sparsense.recording.passes import saliency_of
from sparsense.to_onnx import export_forward


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    network = load_network(options.network)
    modules = variants(network, options)
    files = {name: exported(replace(network, module=module)) for name, module in modules.items()}
    costs = {name: measure_cost(module, example_input(network.input_shape)) for name, module in modules.items()}
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        times = compare_latency(
            {name: onnx_call(file, batch=batch) for name, file in files.items()}, rounds=options.rounds
        )
        for name, latency in times.items():
            left = costs[name].multiply_adds / costs["dense"].multiply_adds
            rows.append({"batch": batch, "variant": name, "multiply_adds_left": left, **asdict(latency)})
            low, high = (1 / ratio for ratio in reversed(latency.ratio_interval))
            print(f"batch {batch:>3}  {name:<28} {left:6.1%} of multiply-adds  {latency.median_ms:8.3f} ms  "
                  f"{1 / latency.ratio:5.2f}x [{low:.2f}, {high:.2f}]  {latency.verdict}")  # fmt: skip
    card = {"arguments": vars(options), "rows": rows, "machine": this_machine().model_dump(), "versions": versions()}
    if options.out:
        Path(options.out).write_text(json.dumps(card, indent=1, default=str))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="digits_resnet")
    parser.add_argument("--sparsity", type=float, default=0.3, help="of the channels")
    parser.add_argument("--scope", choices=("global", "layer"), default="layer")
    parser.add_argument("--multiple", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", help="JSON file")
    return parser.parse_args()


def variants(network: Network, options: argparse.Namespace) -> dict[str, nn.Module]:
    """Weights do not matter to speed, so magnitude decides and nothing is trained."""
    dense, example = network.module, example_input(network.input_shape)
    saliency = saliency_of(dense, "magnitude")
    zeros, pattern = deepcopy(dense), deepcopy(dense)
    select_weights(zeros, saliency, sparsity=0.9).apply_(zeros)
    fitting = {n: s for n, s in saliency.items() if s.shape[1] % 4 == 0}
    select_n_of_m(fitting, layouts=layouts(dense)).apply_(pattern)
    cut = prune_channels(dense, example, saliency, sparsity=options.sparsity, scope=options.scope)
    rounding = ChannelOptions(round_to=options.multiple)
    rounded = prune_channels(dense, example, saliency, sparsity=options.sparsity, scope=options.scope, options=rounding)
    aligned = align_widths(cut.module, example, measure=measured(network), multiple=options.multiple)
    share, multiple = f"-{options.sparsity:.0%}", options.multiple
    return {
        "dense": dense,
        "90% zeros": zeros,
        "2:4 zeros": pattern,
        f"channels {share}": cut.module,
        f"channels {share}, round_to {multiple}": rounded.module,
        **{f"channels {share}, {name}": v.module for name, v in aligned.variants.items() if name != "kept"},
    }


def measured(network: Network) -> Any:
    """The measure that aligning needs: milliseconds in ONNX Runtime, side by side."""

    def measure(modules: Mapping[str, nn.Module]) -> dict[str, float]:
        calls = {name: onnx_call(exported(replace(network, module=module))) for name, module in modules.items()}
        return {name: latency.median_ms for name, latency in compare_latency(calls, rounds=10).items()}

    return measure


def exported(network: Network) -> bytes:
    content: bytes = export_forward(network).SerializeToString()
    return content


if __name__ == "__main__":
    main()
