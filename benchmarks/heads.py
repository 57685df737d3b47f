"""Every head on a pretrained network, dense and pruned: AUROC and FPR95 over seeds, and what it costs.

python benchmarks/heads.py --network resnet20 --data-root FOLDER [--heads energy knn ...] [--out heads.json]

Heads keep their default options: nothing here was chosen with anomalies at hand. They are fitted on random subsets of
the training images, one per seed, and scored on the same held-out test images and sets of anomalies: the spread
(standard deviation) is that of the fitting data. Cost is the ratio of times to the network without head, in one thread,
from interleaved rounds.

The pruned network is a checkpoint (--pruned, as `sparsense run` leaves it), or is made here: channels of least
magnitude removed, batch norms re-estimated on the fitting images, nothing trained.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from cards import save_card

from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.metrics import auroc, fpr95
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import Scored, fit_head
from sparsense.errors import SparsenseError
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks import load_checkpoint, load_network
from sparsense.networks.network import Network, example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.recording.passes import saliency_of
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import predict

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
Scores = dict[str, list[float]]


def main() -> None:
    options = arguments()
    data = splits(options)
    dense = load(options)
    networks = {"dense": dense}
    if "pruned" in options.variants:
        networks["pruned"] = smaller(dense, data, options)
    networks = {name: networks[name] for name in options.variants}
    rows = []
    print(header(options, data, {name: accuracy(network, data["test"]) for name, network in networks.items()}))
    for variant, network in networks.items():
        graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
        for name in options.heads or [name for name in HEADS if HEADS[name].task == "classifier"]:
            rows.append({"variant": variant, "head": name, **row(name, graph, network, data, options)})
            print(line(rows[-1]), flush=True)
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--variants", nargs="+", choices=("dense", "pruned"), default=["dense", "pruned"])
    parser.add_argument("--pruned", help="checkpoint of the pruned network; default: made here")
    parser.add_argument("--sparsity", type=float, default=0.3, help="share of the parameters that pruning removes")
    parser.add_argument("--heads", nargs="*", help="default: all for classifiers")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--seeds", type=int, default=3, help="draws of fitting data")
    parser.add_argument("--fit", type=int, default=2000, help="training images to fit the heads on")
    parser.add_argument("--samples", type=int, default=600, help="images of each set to score")
    parser.add_argument("--rounds", type=int, default=10, help="of the cost; 0 leaves it out")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64], help="of the cost")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def load(options: argparse.Namespace) -> Network:
    source, weights, preprocessing = NETWORKS[options.network]
    root = Path(options.data_root or os.environ["SPARSENSE_DATA"])
    return load_network(source, weights=root / f"nets/{weights}.safetensors", preprocessing=preprocessing)


def smaller(dense: Network, data: dict[str, Dataset], options: argparse.Namespace) -> Network:
    if options.pruned:
        return load_checkpoint(options.pruned)
    example, saliency = example_input(dense.input_shape), saliency_of(dense.module, "magnitude")
    module = prune_channels(dense.module, example, saliency, sparsity=options.sparsity).module
    images = torch.from_numpy(dense.preprocessing.apply(data["train"].subset(options.fit).inputs))
    reestimate_batch_norm(module, images.split(64))
    return replace(dense, module=module.eval())


def accuracy(network: Network, test: Dataset) -> float:
    return float((predict(network, network.preprocessing.arrange(test.inputs)).argmax(1) == test.labels).mean())


def splits(options: argparse.Namespace) -> dict[str, Dataset]:
    load: Callable[[str, str], Dataset] = lambda source, split: SOURCES[source](split, data_root=options.data_root)  # noqa: E731
    found = {"train": load("cifar10", "train"), "test": load("cifar10", "test_all").subset(options.samples)}
    return found | {name: load(name, "test").subset(options.samples) for name in ANOMALIES}


def row(
    name: str, graph: ForwardGraph, network: Network, data: dict[str, Dataset], options: argparse.Namespace
) -> dict[str, Any]:
    """Over the seeds; a head that refuses says why instead."""
    areas: Scores = {key: [] for key in ANOMALIES}
    rates: Scores = {key: [] for key in ANOMALIES}
    seconds = []
    try:
        for seed in range(options.seeds):
            start = perf_counter()
            fitting = data["train"].subset(options.fit, seed=seed)
            scored = fit_head(graph, HEADS[name](), fitting, preprocessing=network.preprocessing)
            seconds.append(perf_counter() - start)
            usual = scored.scores(data["test"].inputs)
            for key in ANOMALIES:
                strange = scored.scores(data[key].inputs)
                areas[key].append(auroc(usual, strange))
                rates[key].append(fpr95(usual, strange))
    except SparsenseError as error:
        return {"refused": str(error)}
    return {
        "auroc": areas,
        "fpr95": rates,
        "cost": cost(graph, scored, data["test"].inputs, options),
        "extra_bytes": size(scored.network.model, [scored.score]) - size(graph.model, [graph.output]),
        "fit_seconds": round(fmean(seconds), 2),
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


def header(options: argparse.Namespace, data: dict[str, Dataset], accuracies: dict[str, float]) -> str:
    counts = ", ".join(f"{name} {len(part)}" for name, part in data.items() if name != "train")
    right = ", ".join(f"{name} {share:.1%}" for name, share in accuracies.items())
    costs = [f"time, batch {size_}" for size_ in options.batch_sizes] if options.rounds else []
    columns = ["network", "head", *(f"{name} AUROC / FPR95" for name in ANOMALIES), *costs, "extra kB", "fit s"]
    rule = "|".join("---" for _ in columns)
    told = (
        f"{options.network}: {counts}; fitted on {options.fit}, {options.seeds} seeds (mean, spread); accuracy {right}"
    )
    return f"{told}\n\n| {' | '.join(columns)} |\n|{rule}|"


def line(found: dict[str, Any]) -> str:
    if "refused" in found:
        return f"| {found['variant']} | {found['head']} | refused: {found['refused']} |"
    cells = [f"{spread(found['auroc'][name])} / {spread(found['fpr95'][name])}" for name in ANOMALIES]
    cells += [f"{ratio:.2f}x" for ratio, *_ in found["cost"].values()]
    cells += [f"{found['extra_bytes'] / 1024:.0f}", f"{found['fit_seconds']:.1f}"]
    return f"| {found['variant']} | {found['head']} | {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f} +- {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


if __name__ == "__main__":
    main()
