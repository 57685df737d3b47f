"""Every head on pretrained networks: AUROC, FPR95, and what it costs over the plain network.

python benchmarks/heads.py --network resnet20 --data-root FOLDER [--heads energy knn ...] [--out heads.json]

Heads keep their default options: nothing here was chosen with anomalies at hand. They are fitted on training images,
scored on held-out test images and on sets of anomalies. Cost is the ratio of times to the network without head, in
one thread, from interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.machine import this_machine, versions
from sparsense.benchmark.metrics import auroc, fpr95
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import Scored, fit_head
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks import load_network
from sparsense.to_onnx import export_forward

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
NETWORKS = {
    "resnet20": ("cifar_resnet20", "resnet20_cifar10", IMAGENET),
    "resnet56": ("cifar_resnet56", "resnet56_cifar10", IMAGENET),
    "wrn16_2": ("wide_resnet16_2", "wrn16_2_cifar10", CIFAR),
    "densenet": ("densenet_bc100", "densenetbc100_cifar10_dice", CIFAR),
    "resnet8": ("cifar_resnet8", "resnet8_cifar10", None),
}
ANOMALIES = ("svhn", "tiny_imagenet", "textures")


def main() -> None:
    options = arguments()
    network = forward(options)
    data = splits(options)
    names = options.heads or [name for name in HEADS if HEADS[name].task == "classifier"]
    rows = []
    print(header(options, data))
    for name in names:
        rows.append(row(name, network, data, options))
        print(line(rows[-1]), flush=True)
    if options.out:
        arguments_ = {key: value for key, value in vars(options).items() if key not in ("data_root", "out")}
        card = {"arguments": arguments_, "rows": rows, "machine": this_machine().model_dump(), "versions": versions()}
        Path(options.out).write_text(json.dumps(card, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--heads", nargs="*", help="default: all for classifiers")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--fit", type=int, default=2000, help="training images to fit the heads on")
    parser.add_argument("--samples", type=int, default=600, help="images of each set to score")
    parser.add_argument("--rounds", type=int, default=10, help="of the cost; 0 leaves it out")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32], help="of the cost")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def forward(options: argparse.Namespace) -> ForwardGraph:
    source, weights, preprocessing = NETWORKS[options.network]
    root = Path(options.data_root or os.environ["SPARSENSE_DATA"])
    network = load_network(source, weights=root / f"nets/{weights}.safetensors", preprocessing=preprocessing)
    return forward_graph(load_graph(export_forward(network)), network.preprocessing)


def splits(options: argparse.Namespace) -> dict[str, Dataset]:
    load = lambda source, split: SOURCES[source](split, data_root=options.data_root)  # noqa: E731
    found = {"fit": load("cifar10", "train").subset(options.fit), "test": load("cifar10", "test_all")}
    found |= {name: load(name, "test") for name in ANOMALIES}
    return {name: data if name == "fit" else data.subset(options.samples) for name, data in found.items()}


def row(name: str, network: ForwardGraph, data: dict[str, Dataset], options: argparse.Namespace) -> dict[str, Any]:
    start = perf_counter()
    preprocessing = NETWORKS[options.network][2] or Preprocessing(scale=1.0)
    scored = fit_head(network, HEADS[name](), data["fit"], preprocessing=preprocessing)
    fitted = perf_counter() - start
    scores = {key: scored.scores(part.inputs) for key, part in data.items() if key != "fit"}
    usual = scores.pop("test")
    return {
        "head": name,
        "auroc": {key: auroc(usual, part) for key, part in scores.items()},
        "fpr95": {key: fpr95(usual, part) for key, part in scores.items()},
        "cost": cost(network, scored, data["test"].inputs, options),
        "extra_bytes": size(scored.network.model, [scored.score]) - size(network.model, [network.output]),
        "fit_seconds": round(fitted, 2),
    }


def cost(network: ForwardGraph, scored: Scored, inputs: Any, options: argparse.Namespace) -> dict[str, list[float]]:
    """Batch size -> ratio of times and its interval."""
    if not options.rounds:
        return {}
    plain = Session(network.model, [network.output], threads=1)
    ours = Session(scored.network.model, [scored.score, scored.network.output], threads=1)
    found = {}
    for size_ in options.batch_sizes:
        batch = np.ascontiguousarray(inputs[:size_])
        calls = {"plain": lambda batch=batch: plain(batch), "ours": lambda batch=batch: ours(batch)}
        latency = compare_latency(calls, rounds=options.rounds)["ours"]
        found[str(size_)] = [round(latency.ratio, 3), *(round(end, 3) for end in latency.ratio_interval)]
    return found


def size(model: ir.Model, outputs: list[ir.Value]) -> int:
    return len(ir.to_proto(with_outputs(model, outputs)).SerializeToString())


def header(options: argparse.Namespace, data: dict[str, Dataset]) -> str:
    counts = ", ".join(f"{name} {len(part)}" for name, part in data.items())
    costs = [f"time, batch {size_}" for size_ in options.batch_sizes] if options.rounds else []
    columns = ["head", *(f"{name} AUROC / FPR95" for name in ANOMALIES), *costs, "extra kB", "fit s"]
    rule = "|".join("---" for _ in columns)
    return f"{options.network}: {counts}\n\n| {' | '.join(columns)} |\n|{rule}|"


def line(found: dict[str, Any]) -> str:
    cells = [f"{found['auroc'][name]:.3f} / {found['fpr95'][name]:.3f}" for name in ANOMALIES]
    cells += [f"{ratio:.2f}x" for ratio, *_ in found["cost"].values()]
    cells += [f"{found['extra_bytes'] / 1024:.0f}", f"{found['fit_seconds']:.1f}"]
    return f"| {found['head']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
