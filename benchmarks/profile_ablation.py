"""Why the sensitivity profile works: what every choice in it is worth, and what it costs.

python benchmarks/profile_ablation.py --network resnet20 wrn16_2 --data-root FOLDER [--fit 2000] [--samples 400]

Per network every observation is recorded once: logits, norms of the weight sensitivities of every layer for three
losses, their distances to the training set's reference, and the signed sensitivities of all gates. The choices are then
varied in numpy, one at a time from the default. Printed are AUROC on far sets (mean of SVHN and Textures) and on the
near one (Tiny-ImageNet without the classes of CIFAR-10), where choices describe the same numbers the log-likelihood of
held-out training images over the default's (nats per image; no anomalies in it), and the time of a call over that of
the plain forward pass (batch 1 and 64, one thread, interleaved rounds) where the choice changes the graph.

This is an explanation after the fact: the defaults were chosen by the likelihood of in-distribution data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import onnx_ir as ir
from head_cost import CLOCKS, in_slices, use_clock
from profile_choices import likelihoods

from networks import NETWORKS, Case, folder, known, load, strange
from sparsense.autodiff import Layer, weighted_layers
from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.metrics import auroc
from sparsense.detector import fit_head
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.heads.classes import ClassMoments
from sparsense.heads.contributions import channels_of
from sparsense.heads.gaussian import whitening
from sparsense.heads.loss import predicted_class
from sparsense.heads.sensitivity import layer_distances, layer_norms, sensitivities
from sparsense.heads.sensnorm_profile import SensitivityProfile
from sparsense.heads.shrinkage import likeliest_shrinkage
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward

ORDERS = (1.0, 2.0, 5.0, np.inf)
LOSSES = ("raw logit", "cross-entropy", "energy")
TINY = 1e-30
AT_ONCE = 16
FOLDS = 5
COMPARABLE = ("log", "by_class", "shrinkage")  # choices that describe the same numbers
Array = np.ndarray
Recorded = dict[str, Array]


@dataclass(frozen=True)
class Setting:
    """One way to make a profile; the fields' defaults are the head's."""

    name: str = "default"
    layers: str = "all"
    p: tuple[float, ...] = (1.0, 2.0, 5.0)
    structure: str = "weight"
    reference: str = "none"
    log: bool = True
    loss: str = "raw logit"
    relative: bool = True
    shrinkage: float | None = SensitivityProfile().shrinkage
    by_class: bool = True
    spread: str = "covariance"
    fit: int = 10**9


def settings() -> dict[str, list[Setting]]:
    """Table -> its rows; the first row of each is the default."""
    usual = Setting()
    vary: dict[str, list[dict[str, Any]]] = {
        "layers": [{"layers": part} for part in ("first half", "last half", "last quarter", "last layer")],
        "p": [{"p": p} for p in ((1.0,), (2.0,), (5.0,), (1.0, 2.0), (2.0, 5.0), ORDERS)],
        "structure": [
            {"structure": "channel"},
            {"structure": "channel", "p": (2.0,)},
            {"structure": "channel", "layers": "last half"},
        ],
        "reference": [{"reference": "train"}, {"reference": "train", "p": (5.0,)}],
        "loss": [{"loss": loss} for loss in LOSSES[1:]],
        "relative": [{"relative": False}],
        "log": [{"log": False}],
        "by_class": [{"by_class": False}],
        "spread": [{"spread": "variances"}, {"spread": "mean only"}],
        "shrinkage": [{"shrinkage": s} for s in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
        "fit": [{"fit": n} for n in (100, 200, 500, 1000)],
    }
    return {
        table: [usual, *(replace(usual, name=told(change), **change) for change in changes)]
        for table, changes in vary.items()
    }


def told(change: dict[str, Any]) -> str:
    return ", ".join(f"{key} {tuple_told(value)}" for key, value in change.items())


def tuple_told(value: Any) -> str:
    return " ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


# --- recording --------------------------------------------------------------------------------------------------------


def seed_of(network: ForwardGraph, loss: str) -> ir.Value:
    """Gradient of a loss with respect to the logits; 1 - p as the sum of the others, which keeps its digits."""
    op, chosen = network.op, predicted_class(network.op, network.output)
    if loss == "raw logit":
        return chosen
    p = op.Softmax(network.output, axis=1)
    if loss == "energy":
        return p
    others = op.Mul(p, op.Sub(1.0, chosen))
    return op.Sub(others, op.Mul(chosen, op.ReduceSum(others, [1], keepdims=1)))


def observations(network: ForwardGraph, references: Sequence[Array]) -> dict[str, ir.Value]:
    """Everything that is recorded, by name; distances are to the reference of the elasticities."""
    layers, top = weighted_layers(network), seed_of(network, LOSSES[0])
    found = {"logits": network.output}
    for loss in LOSSES:
        found[loss] = layer_norms(network, layers, seed_of(network, loss), ORDERS, structure="weight")
    elastic = network.op.Div(top, network.op.ReduceSum(network.op.Mul(network.output, top), [1], keepdims=1))
    for order in ORDERS[:-1]:
        found[f"distance {order:g}"] = layer_distances(
            network, layers, elastic, references, order=order, structure="weight", signed=True
        )
    return found | {"gates": network.op.Concat(*sensitivities(network, layers, top, structure="channel"), axis=1)}


def record(network: ForwardGraph, references: Sequence[Array], images: Array) -> Recorded:
    network = network.copy()
    values = observations(network, references)
    session = Session(network.model, list(values.values()), threads=1)
    rows = [session(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE)]
    columns = (np.concatenate(part).astype(np.float64) for part in zip(*rows, strict=True))
    return dict(zip(values, columns, strict=True))


def references_of(graph: ForwardGraph, network: Network, train: Any) -> list[Array]:
    """SensNorm's: mean sensitivities of the training set over its mean logit."""
    scored = fit_head(graph, HEADS["sensnorm"](), train.subset(500), preprocessing=network.preprocessing)
    return list(scored.head.state().values())


# --- varying ----------------------------------------------------------------------------------------------------------


def chosen_layers(part: str, count: int) -> slice:
    half, quarter = count // 2, max(count // 4, 1)
    return {
        "all": slice(count),
        "first half": slice(half),
        "last half": slice(half, count),
        "last quarter": slice(count - quarter, count),
        "last layer": slice(count - 1, count),
    }[part]


def vectors(recorded: Recorded, setting: Setting, channels: Sequence[int]) -> Array:
    """The profile [n, layers * orders] that a setting makes of the recordings."""
    logit = np.abs(recorded["logits"].max(1))[:, None, None]
    if setting.reference == "train":
        norms = np.stack([recorded[f"distance {p:g}"] for p in setting.p], axis=2)
    elif setting.structure == "channel":
        ends = np.cumsum([0, *channels])
        parts = [recorded["gates"][:, a:b] for a, b in pairwise(ends)]
        norms = np.array([[np.linalg.norm(part, p, axis=1) for p in setting.p] for part in parts]).transpose(2, 0, 1)
    else:
        every = recorded[setting.loss].reshape(len(logit), -1, len(ORDERS))
        norms = every[:, :, [ORDERS.index(p) for p in setting.p]]
    if setting.relative and setting.loss == LOSSES[0] and setting.reference == "none":
        norms = norms / logit
    norms = norms[:, chosen_layers(setting.layers, norms.shape[1])].reshape(len(norms), -1)
    return np.log(np.maximum(norms, TINY)) if setting.log else norms


def scores(sets: dict[str, Recorded], setting: Setting, channels: Sequence[int]) -> dict[str, Array]:
    """The distances of every set, from a Gaussian fitted to the training profiles."""
    made = {name: vectors(part, setting, channels) for name, part in sets.items()}
    classes = {name: part["logits"].argmax(1) * setting.by_class for name, part in sets.items()}
    train, known = made["train"][: setting.fit], classes["train"][: setting.fit]
    found = ClassMoments.of([(train, known)])
    means = np.tile(found.mean, (sets["train"]["logits"].shape[1], 1))
    means[found.classes] = found.means
    covariance = found.within if setting.spread == "covariance" else np.diag(np.diag(found.within))
    if setting.spread == "mean only":  # SensNorm's way: one number, how far the mean of all lies from the usual one
        away = {name: (vector - means[classes[name]]).mean(1) for name, vector in made.items()}
        return {name: np.abs(part) for name, part in away.items()}
    shrinkage = likeliest_shrinkage(train, known) if setting.shrinkage is None else setting.shrinkage
    whiten = whitening(found.mean, covariance, shrinkage=shrinkage)
    white = {name: (vector - means[classes[name]]) @ whiten.T for name, vector in made.items()}
    return {name: (part**2).sum(1) for name, part in white.items()}


def likelihood(train: Recorded, setting: Setting, channels: Sequence[int]) -> Array:
    """Log-likelihood of held-out training norms, image by image: with logarithms their density is p(log v) / v."""
    made, classes = vectors(train, setting, channels), train["logits"].argmax(1)
    shrinkage = likeliest_shrinkage(made, classes) if setting.shrinkage is None else setting.shrinkage
    part = np.random.default_rng(0).integers(0, FOLDS, len(made))
    found = likelihoods(made, classes, part, (setting.by_class, shrinkage))
    return found - made.sum(1) if setting.log else found


def areas(case: Case, sets: dict[str, Recorded], setting: Setting, channels: Sequence[int]) -> list[float | None]:
    """Means over the far sets and the near ones; None where a network has none."""
    found = scores(sets, setting, channels)
    return [fmean(auroc(found["test"], found[key]) for key in part) if part else None for part in (case.far, case.near)]


# --- cost -------------------------------------------------------------------------------------------------------------


def graph_key(setting: Setting) -> tuple[Any, ...]:
    """What of a setting the graph depends on."""
    return (setting.layers, setting.p, setting.structure, setting.reference, setting.loss)


def graph_of(network: ForwardGraph, setting: Setting, references: Sequence[Array]) -> ir.Model:
    network = network.copy()
    every = weighted_layers(network)
    part = chosen_layers(setting.layers, len(every))
    layers: list[Layer] = every[part]
    seed = seed_of(network, setting.loss)
    if setting.reference == "train":
        kept = references[part]
        norms = [
            layer_distances(network, layers, seed, kept, order=p, structure="weight", signed=True) for p in setting.p
        ]
    else:
        norms = [layer_norms(network, layers, seed, setting.p, structure=setting.structure)]
    profile = network.op.Log(network.op.Concat(*norms, axis=1) if len(norms) > 1 else norms[0])
    return with_outputs(network.model, [profile, network.output])


def costs(
    network: ForwardGraph, chosen: Sequence[Setting], references: Sequence[Array], images: Array, rounds: int
) -> dict[tuple[Any, ...], list[float]]:
    """Graph -> ratios of its time to that of the plain pass, batch 1 and 64."""
    graphs = {graph_key(setting): setting for setting in chosen}
    runs = {key: in_slices(graph_of(network, setting, references)) for key, setting in graphs.items()}
    plain = in_slices(with_outputs(network.model, [network.output]))
    found: dict[tuple[Any, ...], list[float]] = {key: [] for key in graphs}
    for batch in (1, 64):
        for key, run in runs.items():
            calls: dict[str, Callable[[], object]] = {
                "plain": partial(plain, images[:batch]),
                "ours": partial(run, images[:batch]),
            }
            found[key].append(compare_latency(calls, rounds=rounds)["ours"].ratio)
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def main() -> None:
    options = arguments()
    use_clock(options.clock)
    root = folder(options.data_root)
    for name in options.network:
        network, (train, test) = load(name, root), known(name, root)
        graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
        train = train.subset(options.fit)
        references = references_of(graph, network, train)
        data = {"test": test, **strange(name, root)}
        sets = {key: record(graph, references, part.subset(options.samples).inputs) for key, part in data.items()}
        sets["train"] = record(graph, references, train.inputs)
        tables = settings()
        timed = [setting for rows in tables.values() for setting in rows]
        cost = costs(graph, timed, references, test.inputs, options.rounds) if options.rounds else {}
        print_tables(name, sets, tables, channels_of(weighted_layers(graph)), cost)


def print_tables(
    network: str,
    sets: dict[str, Recorded],
    tables: dict[str, list[Setting]],
    channels: Sequence[int],
    cost: dict[tuple[Any, ...], list[float]],
) -> None:
    print(f"\n{network}: {len(channels)} layers\n")
    columns = ["choice", "setting", "far", "near", "nats", "time, batch 1", "time, batch 64"]
    print(f"| {' | '.join(columns)} |\n|---|---|{'---:|' * (len(columns) - 2)}")
    usual = likelihood(sets["train"], Setting(), channels)
    for table, rows in tables.items():
        for setting in rows:
            far, near = (f"{a:.3f}" if a else "" for a in areas(NETWORKS[network], sets, setting, channels))
            times = [f"{ratio:.1f}" for ratio in cost.get(graph_key(setting), [])] or ["", ""]
            gain = (likelihood(sets["train"], setting, channels) - usual).mean() if table in COMPARABLE else None
            nats = "" if gain is None else f"{gain:+.1f}"
            print(f"| {table} | {setting.name} | {far} | {near} | {nats} | {' | '.join(times)} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=["resnet20", "wrn16_2"])
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--fit", type=int, default=2000, help="training images")
    parser.add_argument("--samples", type=int, default=400, help="images of every other set")
    parser.add_argument("--rounds", type=int, default=15, help="of the cost; 0 leaves it out")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of the cost, as in head_cost.py")
    return parser.parse_args()


if __name__ == "__main__":
    main()
