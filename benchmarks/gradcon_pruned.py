"""What pruning leaves of GradCon, by how it is fitted again: `recipes/digits-gradcon.yaml`, digit by digit.

python benchmarks/gradcon_pruned.py [--digits 0 1 ...]

Each digit's network is trained once as the recipe says and pruned once per way to fit it again. AUROC in % of the
error alone, and of the head `gradcon` with the reference of the training and with that of fitting data. Normal and
other digits are of the calibration part, on which the recipe's fine-tuning was chosen, and not of the test part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sparsense.benchmark.metrics import auroc
from sparsense.data import SOURCES
from sparsense.detector import fit_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import make_head
from sparsense.networks import Network, load_checkpoint, load_network
from sparsense.pipeline.prune_recipe import prune_recipe
from sparsense.recipe.load import load_recipe
from sparsense.recipe.schema import Recipe
from sparsense.to_onnx import export_forward
from sparsense.training.reference import train_reference

RECIPE = Path(__file__).parents[1] / "recipes" / "digits-gradcon.yaml"
WAYS: dict[str, dict[str, Any]] = {
    "10 epochs, rate to 0": {"finetune.epochs": 10, "finetune.schedule": "cosine"},
    "10 epochs": {"finetune.epochs": 10},
    "30 epochs": {"finetune.epochs": 30},
}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "error": ("reconstruction_error", {}),
    "training": ("gradcon", {"reference": "training"}),
    "fitting": ("gradcon", {"reference": "fitting"}),
}


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    found: dict[str, list[list[float]]] = {}
    for digit in options.digits:
        for way, values in solved(digit):
            found.setdefault(way, []).append(values)
            print(f"digit {digit}, {way}:", " ".join(f"{value:.1f}" for value in values), flush=True)
    print(f"\n| fitted again | {' | '.join(HEADS)} | digits |\n|---|{'---:|' * (len(HEADS) + 1)}")
    for way, rows in found.items():
        means = " | ".join(f"{fmean(column):.1f}" for column in zip(*rows, strict=True))
        print(f"| {way} | {means} | {len(rows)} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)))
    return parser.parse_args()


def solved(digit: int) -> Iterator[tuple[str, list[float]]]:
    """The dense network, then every way to fit the pruned one again."""
    with TemporaryDirectory() as folder:
        weights = train_reference(recipe_of(digit), Path(folder, "dense"))
        dense = load_network("gradcon_autoencoder", weights=weights)
        yield "dense", judged(dense, digit)
        for number, (way, changes) in enumerate(WAYS.items()):
            asked = recipe_of(digit, {"train": None, "network.weights": str(weights), **changes})
            yield way, judged(load_checkpoint(prune_recipe(asked, output=Path(folder, str(number)))), digit)


def recipe_of(digit: int, changes: dict[str, Any] | None = None) -> Recipe:
    others = [other for other in range(10) if other != digit]
    classes = {f"data.{part}.options.classes": [digit] for part in ("train", "calibration", "test")}
    return load_recipe(RECIPE, {**classes, "data.anomalies.other_digits.options.classes": others, **(changes or {})})


def judged(network: Network, digit: int) -> list[float]:
    """AUROC of every head, one digit of the calibration part against the others."""
    train, held_out = (SOURCES["digits"](split, size=28) for split in ("train", "calibration"))
    fitting = train.subset(train.labels == digit)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing, task="reconstruction")
    graph.remembered = {name: mean.numpy() for name, mean in network.remembered.items()}
    inputs, values = network.preprocessing.arrange(held_out.inputs), []
    for name, given in HEADS.values():
        scored = fit_head(graph, make_head(name, given), fitting, preprocessing=network.preprocessing)
        scores = scored.scores(inputs)
        values.append(100 * auroc(scores[held_out.labels == digit], scores[held_out.labels != digit]))
    return values


if __name__ == "__main__":
    main()
