"""Heads on pretrained networks, dense and pruned: how well they tell anomalies, over draws of fitting data.

python benchmarks/heads.py --data-root FOLDER [--network resnet20 ...] [--heads fusion 'knn k=10' ...]
    [--removed 0 0.5] [--keep FOLDER] [--out heads.json]

Heads keep their default options unless others are given, as above: nothing here was chosen with anomalies at hand. They
are fitted on disjoint draws of in-distribution images, one per seed, and scored on the same held-out images and sets of
anomalies: +- is the standard deviation over the draws. Far is the mean AUROC of the sets that look different, near that
of the others; false alarms are what a threshold for 5 % gives, calibrated on as many other held-out images.

`--removed` asks for networks without a share of their multiply-adds (`smaller.py`), on which all is fitted and
calibrated anew. What a head costs is measured by `head_cost.py`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import onnx_ir as ir
import yaml
from cards import save_card
from heads_overview import overview
from smaller import smaller

from networks import NETWORKS, Case, folder, known, load, strange
from sparsense.benchmark.metrics import auroc, fpr95
from sparsense.calibrate import conformal_threshold
from sparsense.data import Dataset
from sparsense.data.dataset import shuffled
from sparsense.detector import fit_head
from sparsense.errors import SparsenseError
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import stream
from sparsense.heads import HEADS
from sparsense.heads.evaluate import score_observations
from sparsense.heads.head import Head, make_head
from sparsense.heads.members import made
from sparsense.networks import Network
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import predict

RATE = 0.05
AT_ONCE = 16  # images; more leave the cache
APART = ("grood", "grad_norm", "gram")
"""Heads whose first pass changes nothing that they look at here: over noise, or for values far larger than these."""
Array = np.ndarray
Sets = dict[str, Dataset]
Scores = Mapping[str, Array]


def main() -> None:
    options = arguments()
    root = folder(options.data_root)
    rows = []
    for name in options.network:
        case, dense, (pool, held_out) = NETWORKS[name], load(name, root), known(name, root)
        draws = disjoint(pool, options.fit, options.seeds)
        sets = halves(held_out, options.samples)
        sets |= {key: part.subset(options.samples) for key, part in strange(name, root).items()}
        for removed in options.removed:
            file = Path(options.keep) / f"{name}-{removed:.0%}.safetensors" if options.keep else None
            network = (
                smaller(dense, removed, pool, epochs=options.epochs, round_to=options.round_to, file=file)
                if removed
                else dense
            )
            print(header(f"{name}, {removed:.0%} of the multiply-adds removed", network, sets, draws), flush=True)
            table = {}
            for head, scores in scores_of(network, options.heads, draws, sets):
                table[head] = scores if isinstance(scores, str) else summary([judged(one, case) for one in scores])
                print(line(head, table[head]), flush=True)
                rows.append({"network": name, "removed": removed, "head": head, "found": table[head]})
            print(verdict(table), flush=True)
    print(f"\n{overview(rows)}")
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [name for name in HEADS if HEADS[name].task == "classifier"]
    parser.add_argument(
        "--network", nargs="+", choices=NETWORKS, default=[name for name in NETWORKS if name != "resnet8"]
    )
    parser.add_argument(
        "--heads", nargs="+", default=every, help="'NAME OPTION=VALUE ...'; default: all for classifiers"
    )
    parser.add_argument("--removed", type=float, nargs="+", default=[0.0], help="shares of the multiply-adds")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning a pruned network")
    parser.add_argument("--round-to", type=int, default=1, help="widths of a pruned network are multiples of it")
    parser.add_argument("--keep", help="folder for the pruned networks, which are read from there the next time")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--seeds", type=int, default=3, help="draws of fitting data")
    parser.add_argument("--fit", type=int, default=1500, help="images to fit the heads on")
    parser.add_argument("--samples", type=int, default=500, help="images of each set to score")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


# --- data -------------------------------------------------------------------------------------------------------------


def disjoint(pool: Dataset, count: int, draws: int) -> list[Dataset]:
    """As many images in each as asked for, or as there are."""
    count = min(count, len(pool) // draws)
    order = shuffled(len(pool), seed=0)[: count * draws]
    return [pool.subset(np.sort(part)) for part in order.reshape(draws, count)]


def halves(held_out: Dataset, samples: int) -> Sets:
    """To be scored, and to calibrate on."""
    samples, order = min(samples, len(held_out) // 2), shuffled(len(held_out), seed=0)
    return {"test": held_out.subset(order[:samples]), "calibration": held_out.subset(order[samples : 2 * samples])}


# --- scores -----------------------------------------------------------------------------------------------------------


def head_of(text: str) -> Head:
    """`NAME OPTION=VALUE ...`, values as in a recipe."""
    name, *pairs = re.split(r" (?=\w+=)", text)
    return make_head(name, {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)})


def scores_of(
    network: Network, asked: Sequence[str], draws: Sequence[Dataset], sets: Sets
) -> Iterator[tuple[str, list[Scores] | str]]:
    """Head -> for every draw the scores of all sets; a head that refuses says why instead."""
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    heads = {text: head_of(text) for text in asked}
    draws_by_name = {f"fit {index}": draw for index, draw in enumerate(draws)}
    together = observed(graph, {text: head for text, head in heads.items() if not alone(head)}, sets | draws_by_name)
    for text, head in heads.items():
        try:
            if alone(head):
                yield text, [fitted_alone(graph, network, head_of(text), draw, sets) for draw in draws]
            elif isinstance(together[text], str):
                yield text, together[text]
            else:
                yield text, [refitted(graph, head, together[text], *item, sets) for item in draws_by_name.items()]
        except SparsenseError as error:
            yield text, str(error)


def alone(head: Head) -> bool:
    """Whether what it looks at depends on a first pass over the fitting data; a fusion if one of its members does."""
    if head.name == "fusion":
        return any(alone(made(member)) for member in head.options()["members"])
    return head.name not in APART and type(head).prepare is not Head.prepare


@dataclass(frozen=True)
class Feed:
    """Runs a graph over a draw, for a head's first pass."""

    inputs: Array
    has_labels: bool = False

    def __call__(self, network: ForwardGraph, values: Sequence[ir.Value]) -> Iterator[list[Array]]:
        return stream(network.model, values, self.inputs, batch_size=AT_ONCE)


def observed(graph: ForwardGraph, heads: Mapping[str, Head], sets: Sets) -> dict[str, Any]:
    """Head -> set -> what it looks at; all heads share one pass. A head that refuses the network says why instead."""
    network, values, found = graph.copy(), {}, {}
    for text, head in heads.items():
        try:
            values[text] = head.observe(network)
            found[text] = {}
        except SparsenseError as error:
            found[text] = str(error)
    session = Session(network.model, list(values.values()), threads=1)
    for key, part in sets.items():
        rows = [session(part.inputs[start : start + AT_ONCE]) for start in range(0, len(part), AT_ONCE)]
        for text, column in zip(values, zip(*rows, strict=True), strict=True):
            found[text][key] = np.concatenate(column)
    return found


def refitted(graph: ForwardGraph, head: Head, rows: Mapping[str, Array], key: str, draw: Dataset, sets: Sets) -> Scores:
    head.prepare(graph.copy(), Feed(draw.inputs))
    head.fit([rows[key]], draw.labels)
    return {key: score_observations(head, rows[key]) for key in sets}


def fitted_alone(graph: ForwardGraph, network: Network, head: Head, draw: Dataset, sets: Sets) -> Scores:
    scored = fit_head(graph, head, draw, preprocessing=network.preprocessing, batch_size=AT_ONCE)
    return {key: scored.scores(part.inputs, batch_size=AT_ONCE) for key, part in sets.items()}


# --- figures ----------------------------------------------------------------------------------------------------------


def judged(scores: Scores, case: Case) -> dict[str, float]:
    """Of one draw."""
    usual = scores["test"]
    areas = {key: auroc(usual, scores[key]) for key in case.anomalies}
    found = {"far": fmean(areas[key] for key in case.far)}
    found |= {"near": fmean(areas[key] for key in case.near)} if case.near else {}
    for key in case.anomalies:
        found |= {f"{key} AUROC": areas[key], f"{key} FPR95": fpr95(usual, scores[key])}
    alarms = usual > conformal_threshold(scores["calibration"], RATE)
    return found | {"false alarms": float(alarms.mean())}


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Figure -> mean and standard deviation over the draws."""
    columns = {key: [one[key] for one in found] for key in found[0]}
    return {key: [fmean(values), stdev(values) if len(values) > 1 else 0.0] for key, values in columns.items()}


# --- tables -----------------------------------------------------------------------------------------------------------


def header(title: str, network: Network, sets: Sets, draws: Sequence[Dataset]) -> str:
    test = sets["test"]
    accuracy = float((predict(network, network.preprocessing.arrange(test.inputs)).argmax(1) == test.labels).mean())
    counts = ", ".join(f"{name} {len(part)}" for name, part in sets.items())
    told = f"\n{title}: accuracy {accuracy:.1%}; fitted on {len(draws)} draws of {len(draws[0])}; {counts}"
    return f"{told}\n\n| head | far | near | every set: AUROC / FPR95 | false alarms |\n|---|---:|---:|---|---:|"


def line(head: str, found: dict[str, list[float]] | str) -> str:
    if isinstance(found, str):
        return f"| {head} | refused: {found} |"
    sets = [key.removesuffix(" AUROC") for key in found if key.endswith(" AUROC")]
    each = "; ".join(f"{key} {found[f'{key} AUROC'][0]:.3f} / {found[f'{key} FPR95'][0]:.3f}" for key in sets)
    near = spread(found["near"]) if "near" in found else ""
    return f"| {head} | {spread(found['far'])} | {near} | {each} | {found['false alarms'][0]:.3f} |"


def spread(value: Sequence[float]) -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}"


def verdict(table: Mapping[str, dict[str, list[float]] | str]) -> str:
    """Who is first, by how much."""
    told = []
    for key in ("far", "near"):
        areas = {head: found[key][0] for head, found in table.items() if not isinstance(found, str) and key in found}
        if ranked := sorted(areas, key=areas.__getitem__, reverse=True):
            told.append(f"{key}: " + ", ".join(f"{head} {areas[head]:.3f}" for head in ranked[:3]))
    return f"\nFirst {'; '.join(told)}"


if __name__ == "__main__":
    main()
