"""Does sparsity help detection? AUROCs from dense to 95 % sparse, with intervals, and paired differences to dense.

Every network is pruned in one shot, its batch norms are measured anew, and it is fine-tuned for the asked number of
epochs; masks stay. The dense network, fine-tuned in the same way, is the control. Heads are fitted on training images
of the network that they judge, with default options. Test images and anomalies are looked at once per network. All
networks see the same images, so differences are paired.

python benchmarks/sparsity_detection.py --network cifar_resnet20 --weights nets/resnet20_cifar10.safetensors \
    --mean .485 .456 .406 --std .229 .224 .225 --data cifar10 --split test_all --data-root FOLDER \
    --anomalies svhn textures tiny_imagenet --epochs 1 --precision bf16
Without arguments: the bundled digits network.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from cards import save_card
from pruning_accuracy import channel_options, inputs, load, options_of, saliency
from pruning_finetuned import fine_tune
from torch import nn

from sparsense.benchmark.uncertainty import Pair, compare, estimate
from sparsense.data import SOURCES, Dataset
from sparsense.detector import fit_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks.network import Network, example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.mask import Mask
from sparsense.pruning.weights import select_weights
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import accuracy

Pairs = dict[tuple[str, str], Pair]
"""(Head, set of anomalies) -> scores."""


@dataclass(frozen=True)
class Point:
    """One pruned network."""

    structure: str
    criterion: str
    sparsity: float
    module: nn.Module
    mask: Mask | None = None


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    network, splits = load(options)
    root = {"data_root": options.data_root} if options.data_root else {}
    anomalies = {name: SOURCES[name]("test", **root).subset(options.scored) for name in options.anomalies}
    splits["scored"] = splits["test"].subset(options.scored)
    dense = measured(network, splits, anomalies, options)
    rows = [row(Point("", "dense", 0.0, network.module), accuracy(network, splits["test"]), dense, dense)]
    print(header(options, splits, rows[0]), flush=True)
    for point in points(network, splits["train"], options):
        smaller = replace(network, module=point.module)
        recovered(network, smaller, point.mask, splits["train"], options)
        rows.append(row(point, accuracy(smaller, splits["test"]), measured(smaller, splits, anomalies, options), dense))
        print("\n".join(lines(rows[-1], options)), flush=True)
    print("\n" + summary(rows[1:]))
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of(parser)
    parser.add_argument("--structures", nargs="+", choices=("weight", "channel"), default=["weight", "channel"])
    parser.add_argument("--criteria", nargs="+", default=["magnitude", "crop", "snip", "random"])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9, 0.95])
    parser.add_argument("--anomalies", nargs="+", default=["letters", "inverted_digits", "noisy_digits"])
    parser.add_argument("--heads", nargs="+", default=["msp", "energy", "sensnorm", "sensnorm_profile"])
    parser.add_argument("--fit", type=int, default=1000, help="training images to fit heads on")
    parser.add_argument("--scored", type=int, default=400, help="images of each set that heads score")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning; 0: batch norms only")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    return parser.parse_args()


def points(network: Network, train: Dataset, options: argparse.Namespace) -> Iterator[Point]:
    """The dense network comes first: what fine-tuning does without pruning."""
    yield Point("", "dense, fine-tuned", 0.0, deepcopy(network.module))
    for criterion in options.criteria:
        values = saliency(network, criterion, train, options, options.seeds[0])
        for structure in options.structures:
            for sparsity in options.sparsities:
                yield pruned(network, values, structure, criterion, sparsity)


def pruned(network: Network, values: Any, structure: str, criterion: str, sparsity: float) -> Point:
    if structure == "weight":
        module = deepcopy(network.module)
        mask = select_weights(module, values, sparsity=sparsity, scope="global")
        mask.apply_(module)
        return Point(structure, criterion, sparsity, module, mask)
    report = prune_channels(
        network.module,
        example_input(network.input_shape),
        values,
        sparsity=sparsity,
        options=channel_options(criterion),
    )
    return Point(structure, criterion, sparsity, report.module)


def recovered(dense: Network, smaller: Network, mask: Mask | None, train: Dataset, options: argparse.Namespace) -> None:
    reestimate_batch_norm(smaller.module, torch.split(inputs(dense, train.subset(options.batch_norm, seed=0)), 100))
    if options.epochs:
        after = (lambda: None) if mask is None else (lambda: mask.apply_(smaller.module))
        fine_tune(dense, smaller, train, "cross_entropy", options.seeds[0], options, after_step=after)


def measured(
    network: Network, splits: dict[str, Dataset], anomalies: dict[str, Dataset], options: argparse.Namespace
) -> Pairs:
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    fitting = splits["train"].subset(options.fit, seed=options.seeds[0])
    found = {}
    for name in options.heads:
        scored = fit_head(graph, HEADS[name](), fitting, preprocessing=network.preprocessing)
        usual = scored.scores(splits["scored"].inputs)
        found |= {(name, key): Pair(usual, scored.scores(data.inputs)) for key, data in anomalies.items()}
    return found


def row(point: Point, right: float, found: Pairs, dense: Pairs) -> dict[str, Any]:
    cells = [
        {
            "head": head,
            "anomalies": name,
            "auroc": estimate(*pair, metrics=("auroc",))["auroc"],
            "difference": compare(dense[head, name], pair, metrics=("auroc",))["auroc"],
        }
        for (head, name), pair in found.items()
    ]
    return {"structure": point.structure, "criterion": point.criterion, "sparsity": point.sparsity,
            "accuracy": right, "cells": cells}  # fmt: skip


def header(options: argparse.Namespace, splits: dict[str, Dataset], dense: dict[str, Any]) -> str:
    told = (
        f"{options.network}: {len(splits['test'])} test images for accuracies, {len(splits['scored'])} of them and "
        f"{options.scored} of each anomalous set for AUROCs; fitted on {options.fit}, fine-tuned for {options.epochs} "
        f"epochs on {len(splits['train'])}. * : the 95 % interval of the paired difference to dense leaves out 0."
    )
    columns = ["structure", "criterion", "sparsity", "accuracy", "head", *options.anomalies]
    return "\n".join([told, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines(dense, options)])


def lines(found: dict[str, Any], options: argparse.Namespace) -> Iterator[str]:
    start = f"| {found['structure']} | {found['criterion']} | {found['sparsity']:.0%} | {found['accuracy']:.3f}"
    for head in options.heads:
        cells = [cell for cell in found["cells"] if cell["head"] == head]
        yield f"{start} | {head} | {' | '.join(map(area, cells))} |"


def area(cell: dict[str, Any]) -> str:
    value, low, high = cell["auroc"]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]{'*' if verdict(cell) else ''}"


def verdict(cell: dict[str, Any]) -> str:
    _, low, high = cell["difference"]
    return "better" if low > 0 else "worse" if high < 0 else ""


def summary(rows: list[dict[str, Any]]) -> str:
    """Per head and structure: how many of the pruned networks detect better, worse, no differently than dense."""
    counted: Counter[tuple[str, str, str]] = Counter(
        (cell["head"], found["structure"], verdict(cell) or "same") for found in rows for cell in found["cells"]
    )
    keys = sorted({(head, structure) for head, structure, _ in counted})
    return "\n".join(
        f"{head}, {structure}: " + ", ".join(f"{counted[head, structure, w]} {w}" for w in ("better", "same", "worse"))
        for head, structure in keys
    )


if __name__ == "__main__":
    main()
