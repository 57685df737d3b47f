"""What removing channels gains in ONNX Runtime: as selected, padded with zero channels, rounded, group by group.

Weights do not matter to speed, so magnitude decides and nothing is trained. All variants of a network are timed in the
same interleaved rounds, one thread; only the ratios are worth quoting.

python benchmarks/pruning_speed.py --network cifar_resnet20 --width 16 32 64 --sparsity 0.3 0.5
python benchmarks/pruning_speed.py --network mobilenet_v2_32 --sparsity 0.3 0.5
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import torch
from cards import save_card
from sized_networks import SIZED
from torch import nn

from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.load import load_network
from sparsense.networks.network import Network, example_input
from sparsense.pruning.align import align_each_group, align_widths
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.patterns import select_n_of_m
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.weights import select_weights
from sparsense.recording.layers import layouts
from sparsense.recording.passes import saliency_of
from sparsense.to_onnx import export_forward

PIXELS = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for width in options.width:
        found = measured_rows(load(options.network, width), options, f"{options.network} {width or ''}".strip())
        print(table(found, head=not rows), flush=True)
        rows += found
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--width", type=int, nargs="+", default=[0], help="of the first stage; 0: as published")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.3], help="share of the channels")
    parser.add_argument("--scope", choices=("global", "layer"), default="layer")
    parser.add_argument("--multiples", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--each-group", action="store_true", help="also group by group, which takes minutes")
    parser.add_argument("--zeros", action="store_true", help="also zeros without structure")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", help="JSON file")
    return parser.parse_args()


def load(name: str, width: int) -> Network:
    if name in SIZED:
        make, shape = SIZED[name]
        torch.manual_seed(0)
        return Network(make().eval(), PIXELS, shape, "classifier", name, {})
    return load_network(name, options={"width": width} if width else {})


def measured_rows(dense: Network, options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    example = example_input(dense.input_shape)
    made = {(0.0, "dense", True): dense.module}
    if options.zeros:
        made |= {(0.0, kind, False): module for kind, module in zeros(dense).items()}
    for sparsity in options.sparsity:
        made |= {(sparsity, *key): module for key, module in variants(dense, sparsity, options).items()}
    files = {key: exported(replace(dense, module=module)) for key, module in made.items()}
    before = measure_cost(dense.module, example).multiply_adds
    rows = []
    for batch in options.batches:
        calls = {repr(key): onnx_call(file, batch=batch) for key, file in files.items()}
        found = compare_latency(calls, rounds=options.rounds, baseline=repr((0.0, "dense", True)))
        for (sparsity, kind, exact), module in made.items():
            latency = found[repr((sparsity, kind, exact))]
            left = measure_cost(module, example).multiply_adds / before
            rows.append({"network": name, "sparsity": sparsity, "variant": kind, "same_outputs": exact, "batch": batch,
                         "multiply_adds_left": left, **asdict(latency)})  # fmt: skip
    return rows


def zeros(dense: Network) -> dict[str, nn.Module]:
    """Weights that are zero in no order, and 2 of every 4: what the runtime makes of them."""
    saliency = saliency_of(dense.module, "magnitude")
    scattered, pattern = deepcopy(dense.module), deepcopy(dense.module)
    select_weights(scattered, saliency, sparsity=0.9).apply_(scattered)
    fitting = {n: s for n, s in saliency.items() if s.shape[1] % 4 == 0}
    select_n_of_m(fitting, layouts=layouts(dense.module)).apply_(pattern)
    return {"90 % zeros": scattered, "2:4 zeros": pattern}


def variants(dense: Network, sparsity: float, options: argparse.Namespace) -> dict[tuple[str, bool], nn.Module]:
    """(What, whether outputs are those of the network as selected) -> network."""
    example, saliency = example_input(dense.input_shape), saliency_of(dense.module, "magnitude")

    def cut(**asked: Any) -> nn.Module:
        return prune_channels(
            dense.module, example, saliency, sparsity=sparsity, scope=options.scope, options=ChannelOptions(**asked)
        ).module

    selected, align = cut(), {"measure": measured(dense), "multiple": options.multiples}
    everywhere = align_widths(selected, example, **align)
    found = {("as selected" if name == "kept" else name, v.exact): v.module for name, v in everywhere.variants.items()}
    found |= {(f"selected in multiples of {m}", False): cut(round_to=m) for m in options.multiples}
    for exact in (True, False) if options.each_group else ():
        best = align_each_group(selected, example, exact=exact, **align)
        found[("group by group", exact)] = best.module
    return found


def measured(network: Network) -> Any:
    """The measure that aligning needs: milliseconds in ONNX Runtime, side by side."""

    def measure(modules: Mapping[str, nn.Module]) -> dict[str, float]:
        calls = {name: onnx_call(exported(replace(network, module=module))) for name, module in modules.items()}
        return {name: latency.median_ms for name, latency in compare_latency(calls, rounds=10).items()}

    return measure


def exported(network: Network) -> bytes:
    content: bytes = export_forward(network).SerializeToString()
    return content


def table(rows: list[dict[str, Any]], *, head: bool) -> str:
    """A line per network, sparsity and batch; times as fast as dense with the 95 % interval, share of multiply-adds."""
    kinds = list(dict.fromkeys(row["variant"] for row in rows if row["variant"] != "dense"))
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        key = (row["network"], f"{row['sparsity']:.0%}", row["batch"])
        lines.setdefault(key, {})[row["variant"]] = faster(row)
    columns = ["network", "channels removed", "batch", *(f"{kind} ({same(rows, kind)})" for kind in kinds)]
    found = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"] if head else []
    found += [f"| {' | '.join(map(str, key))} | {' | '.join(cells.get(kind, '') for kind in kinds)} |"
              for key, cells in lines.items() if any(kind in cells for kind in kinds)]  # fmt: skip
    return "\n".join(found)


def same(rows: list[dict[str, Any]], kind: str) -> str:
    return "same outputs" if any(row["same_outputs"] for row in rows if row["variant"] == kind) else "others"


def faster(row: dict[str, Any]) -> str:
    low, high = (1 / ratio for ratio in reversed(row["ratio_interval"]))
    return f"{1 / row['ratio']:.2f} [{low:.2f}, {high:.2f}] {row['multiply_adds_left']:.0%}"


if __name__ == "__main__":
    main()
