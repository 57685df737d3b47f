"""Accuracy after one-shot pruning, by criterion, scope and sparsity: as pruned -> after batch norms are measured anew.

python benchmarks/pruning_accuracy.py --network cifar_resnet20 --weights nets/resnet20_cifar10.safetensors \
    --mean .485 .456 .406 --std .229 .224 .225 --data cifar10 --data-root FOLDER
Without arguments: the bundled digits network.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
from cards import save_card
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.load import load_network
from sparsense.networks.network import Network, example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.weights import select_weights
from sparsense.recording.passes import Source, saliency_of
from sparsense.training.evaluate import accuracy


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    network, splits = load(options)
    dense = accuracy(network, splits["test"])
    print(
        f"{options.network} on {options.data}: dense {dense:.4f}, {len(splits['test'])} test samples, "
        f"{options.samples} to record, {options.batch_norm} for batch norms, seeds {options.seeds}"
    )
    rows = []
    for criterion in options.criteria:
        started = perf_counter()
        saliencies = [saliency(network, criterion, splits["train"], options, seed) for seed in options.seeds]
        took = (perf_counter() - started) / len(saliencies)
        for scope in options.scopes:
            cells = [
                cell(network, saliencies, splits, scope=scope, sparsity=sparsity, criterion=criterion, options=options)
                for sparsity in options.sparsities
            ]
            rows.append({"criterion": criterion, "scope": scope, "seconds": round(took, 2), "cells": cells})
            print(line(rows[-1]), flush=True)
    save_card(options, rows, dense=dense)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of(parser)
    parser.add_argument("--structure", choices=("weight", "channel"), default="weight")
    parser.add_argument("--criteria", nargs="+", default=["random", "magnitude", "layer_adaptive_magnitude", "taylor"])
    parser.add_argument("--scopes", nargs="+", default=["global", "layer"])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.8, 0.9])
    return parser.parse_args()


def options_of(parser: argparse.ArgumentParser) -> None:
    """What is pruned, with which data, how often."""
    parser.add_argument("--network", default="digits_resnet")
    parser.add_argument("--weights", default="bundled", help="below the data root, or 'bundled'")
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--split", default="test")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch-norm", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="JSON file")


def load(options: argparse.Namespace) -> tuple[Network, dict[str, Dataset]]:
    root = {"data_root": options.data_root} if options.data_root else {}
    weights = options.weights if options.weights == "bundled" else Path(options.data_root) / options.weights
    preprocessing = Preprocessing(mean=tuple(options.mean), std=tuple(options.std)) if options.mean else None
    network = load_network(options.network, weights=weights, preprocessing=preprocessing)
    splits = {"train": SOURCES[options.data]("train", **root), "test": SOURCES[options.data](options.split, **root)}
    return network, splits


def saliency(network: Network, criterion: str, train: Dataset, options: argparse.Namespace, seed: int) -> Any:
    sample = train.subset(options.samples, seed=seed)
    loss = "energy" if "score" in criterion else "cross_entropy"
    temperature = 200.0 if criterion == "grasp" else 1.0
    source = Source(inputs(network, sample), sample.labels, loss=loss, batch_size=50, temperature=temperature)
    extra = {"seed": seed} if criterion == "random" else {}
    return saliency_of(network.module, criterion, source, **extra)


def inputs(network: Network, data: Dataset) -> torch.Tensor:
    return torch.from_numpy(network.preprocessing.apply(data.inputs))


def cell(network: Network, saliencies: list[Any], splits: dict[str, Dataset], *, scope: str, sparsity: float,
         criterion: str, options: argparse.Namespace) -> dict[str, Any]:  # fmt: skip
    raw, measured, shares = [], [], []
    for seed, values in zip(options.seeds, saliencies, strict=True):
        module, share = pruned(network, values, scope, sparsity, criterion, options.structure)
        smaller = replace(network, module=module)
        raw.append(accuracy(smaller, splits["test"]))
        images = inputs(network, splits["train"].subset(options.batch_norm, seed=seed))
        reestimate_batch_norm(module, [images[i : i + 200] for i in range(0, len(images), 200)])
        measured.append(accuracy(smaller, splits["test"]))
        shares.append(share)
    return {"sparsity": sparsity, "raw": raw, "after_batch_norm": measured, "multiply_adds_left": mean(shares)}


def pruned(
    network: Network, values: Any, scope: Any, sparsity: float, criterion: str, structure: str
) -> tuple[nn.Module, float]:
    if structure == "weight":
        module = deepcopy(network.module)
        select_weights(module, values, sparsity=sparsity, scope=scope).apply_(module)
        return module, 1 - sparsity
    options = channel_options(criterion)
    report = prune_channels(
        network.module, example_input(network.input_shape), values, sparsity=sparsity, scope=scope, options=options
    )
    return report.module, report.after.multiply_adds / report.before.multiply_adds


def channel_options(criterion: str) -> ChannelOptions:
    return ChannelOptions(count="producers" if CRITERIA[criterion].filters else "both")


def line(row: dict[str, Any]) -> str:
    cells = "  ".join(
        f"{c['sparsity']:.0%}: {figure(c['raw'])} -> {figure(c['after_batch_norm'])}" for c in row["cells"]
    )
    return f"{row['criterion']:>26} {row['scope']:>6} ({row['seconds']:5.1f} s)  {cells}"


def figure(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f"±{stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
