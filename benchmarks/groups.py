"""Groups of inputs that belong together, judged as one: AUROC by the size of the group.

python benchmarks/groups.py --data-root FOLDER [--network resnet20] [--sizes 1 2 5 10 100] [--samples 800]

Images of every set are put into disjoint groups at random, the same groups for every method:

- `sensnorm, published`: || r_l - s_l ||_5 with s_l the elasticity of the group's mean predicted logit, mean over
  layers, as a detector of groups (`attach --group`) computes it: gradients are averaged before the norm;
- `mean of scores`: of the inputs' own scores, for the default fusion, SensNorm one by one, energy, MSP and kNN;
- `p-values`: Fisher's sum of -log p, p the conformal p-values by held-out test images that are in no group.

Intervals are 95 % bootstrap intervals over groups. With perfect separation they have no width: the number of groups
says how little that may mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from networks import NETWORKS, folder, known, load, strange
from sparsense.benchmark.uncertainty import estimate
from sparsense.data import Dataset
from sparsense.detector import Scored, fit_head
from sparsense.detector.grouped import grouped
from sparsense.detector.groups import group_inputs, group_scores
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.to_onnx import export_forward

HEADS_GROUPED = ("fusion", "sensnorm", "energy", "msp", "knn")
Array = np.ndarray
Sets = dict[str, Array]


def main() -> None:
    options = arguments()
    root = folder(options.data_root)
    network, (train, test) = load(options.network, root), known(options.network, root)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    images, held_out = drawn(test, strange(options.network, root), options)
    train = train.subset(options.fit)
    print(header(options, images, held_out))
    for name in HEADS_GROUPED:
        scored = fit_head(graph, HEADS[name](), train, preprocessing=network.preprocessing)
        usual = scored.scores(held_out)
        alone = {key: scored.scores(part).astype(np.float64) for key, part in images.items()}
        surprise = {key: -np.log(p_values(part, usual)) for key, part in alone.items()}
        for how, values in (("mean of scores", alone), ("p-values", surprise)):
            grouped = {size: {key: group_scores(v, size) for key, v in values.items()} for size in options.sizes}
            print_rows(f"{name}, {how}", grouped)
        if name == "sensnorm":
            print_rows("sensnorm, published", published(graph, scored, images, options.sizes))


def drawn(test: Dataset, anomalies: dict[str, Dataset], options: argparse.Namespace) -> tuple[Sets, Array]:
    """Images of every set in random order, and test images for the p-values."""
    random = np.random.default_rng(options.seed)
    order = random.permutation(len(test))
    found = {"test": test.inputs[order[: options.samples]]}
    found |= {name: part.inputs[random.permutation(len(part))[: options.samples]] for name, part in anomalies.items()}
    return found, test.inputs[order[options.samples :]]


def p_values(scores: Array, calibration: Array) -> Array:
    """(1 + #{calibration >= score}) / (n + 1)."""
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


def published(graph: ForwardGraph, scored: Scored, images: Sets, sizes: Sequence[int]) -> dict[int, dict[str, Array]]:
    """Size -> set -> what a detector of groups of this size scores its groups."""
    found: dict[int, dict[str, Array]] = {}
    for size in sizes:
        judge = grouped(graph, scored, size)
        found[size] = {name: judge.scores(group_inputs(part, size)) for name, part in images.items()}
    return found


def print_rows(name: str, grouped: dict[int, dict[str, Array]]) -> None:
    for line in rows(name, grouped):
        print(line, flush=True)


def rows(name: str, grouped: dict[int, dict[str, Array]]) -> Iterator[str]:
    for size, scores in grouped.items():
        cells = [
            told(estimate(scores["test"], scores[key], metrics=["auroc"])["auroc"]) for key in scores if key != "test"
        ]
        yield f"| {name} | {size} | {len(scores['test'])} | {' | '.join(cells)} |"


def told(found: Any) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def header(options: argparse.Namespace, images: Sets, held_out: Array) -> str:
    counts = ", ".join(f"{name} {len(part)}" for name, part in images.items())
    columns = ["method", "inputs in a group", "groups of each set", *NETWORKS[options.network].anomalies]
    return (
        f"{options.network}: {counts}; fitted on {options.fit}, p-values by {len(held_out)}\n\n"
        f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 5, 10, 100])
    parser.add_argument("--samples", type=int, default=800, help="images of each set")
    parser.add_argument("--fit", type=int, default=1500, help="training images to fit the heads on")
    parser.add_argument("--seed", type=int, default=0, help="of the groups")
    found = parser.parse_args()
    if any(max(found.sizes) % size or found.samples % size for size in found.sizes):
        parser.error("every size has to divide the largest one and the number of samples")
    return found


if __name__ == "__main__":
    main()
