"""One class against the rest, by training objective; tables beside PyOD: AUROC per class, mean and spread over seeds.

python benchmarks/anomaly_training.py                                                    # digits, nothing to download
python benchmarks/anomaly_training.py --data mnist fashion_mnist cifar10 --data-root FOLDER
python benchmarks/anomaly_training.py --data cardio thyroid --data-root FOLDER           # tables of ADBench
--full trains as long as published (GradCon 1000 epochs, latent norm 2000 batches): hours per class on a CPU.

No labels are used in training; the weights are those of the last epoch. CIFAR-10 is not contrast-normalised, as it is
in the latent-norm publication. Scores are those of the objective, which the heads of the same names ship.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsense.benchmark.machine import this_machine, versions
from sparsense.benchmark.metrics import auroc
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks import Network, load_network
from sparsense.training.batches import Batches
from sparsense.training.loop import seeded, train
from sparsense.training.objectives import Context, make_objective
from sparsense.training.settings import TrainingSettings

IMAGES = {"digits": 1, "mnist": 1, "fashion_mnist": 1, "cifar10": 3}
BETAS = {"digits": 100.0, "mnist": 1000.0, "fashion_mnist": 100.0, "cifar10": 10.0}
NEIGHBOURS = {"iforest": "IForest", "knn": "KNN", "lof": "LOF", "ecod": "ECOD"}  # of PyOD
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Method:
    """A network and what it is trained with."""

    network: str
    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Problem:
    """Normal samples to train on; test samples with label 1 where they are anomalous."""

    data: str
    normal: str
    train: Dataset
    test: Dataset


def methods(data: str) -> dict[str, Method]:
    if data not in IMAGES:
        return {f"latent_norm beta {b:g}": Method("latent_norm_table", "latent_norm", {"beta": b}) for b in (0.0, 10.0)}
    latent = "latent_norm_colour32" if IMAGES[data] == 3 else "latent_norm_grey28"
    beta = {"beta": BETAS[data]}
    return {
        "reconstruction": Method("gradcon_autoencoder", "reconstruction"),
        "loss_amplification": Method("gradcon_autoencoder", "loss_amplification"),
        "gradcon": Method("gradcon_autoencoder", "gradcon"),
        "latent_norm": Method(latent, "latent_norm", beta, 1e-2 if IMAGES[data] == 3 else 1e-4),
    }


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows = []
    for data in options.data:
        for problem in problems(data, options):
            for name, score in scorers(problem, options).items():
                started = perf_counter()
                found = [100 * evaluate(problem, score(seed)) for seed in options.seeds]
                row = {"data": data, "normal": problem.normal, "method": name, "auroc": found}
                rows.append(row | {"seconds": round((perf_counter() - started) / len(found), 1)})
                print(line(rows[-1]), flush=True)
    print_means(rows)
    card = {"arguments": vars(options), "rows": rows, "machine": this_machine().model_dump(), "versions": versions()}
    if options.out:
        Path(options.out).write_text(json.dumps(card, indent=1, default=str))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits"], help=f"{', '.join(IMAGES)}, or tables of ADBench")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=2000, help="of training samples, and of test samples per side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="published numbers of samples and epochs")
    parser.add_argument("--out", help="JSON file")
    return parser.parse_args()


def problems(data: str, options: argparse.Namespace) -> Iterator[Problem]:
    if data not in IMAGES:
        known = {"table": data, "data_root": options.data_root}
        parts = [SOURCES["adbench"](split, **known) for split in SPLITS]
        normal = parts[0].subset(parts[0].labels == 0)
        yield Problem(data, "normal", normal, parts[1])
        return
    root = {} if data == "digits" else {"data_root": options.data_root}
    whole = {split: SOURCES[data](split, **root) for split in SPLITS}
    limit = None if options.full else options.limit
    for label in options.classes:
        normal = whole["train"].subset(whole["train"].labels == label)
        own, others = (whole["test"].subset((whole["test"].labels == label) == same) for same in (True, False))
        own, others = (part if limit is None else part.subset(limit, seed=0) for part in (own, others))
        inputs = np.concatenate([own.inputs, others.inputs])
        marks = np.repeat([0, 1], [len(own), len(others)])
        train_set = normal if limit is None else normal.subset(limit, seed=0)
        yield Problem(data, str(label), train_set, Dataset(f"{data}/{label}", inputs, marks))


Score = Callable[[int], NDArray[Any]]


def scorers(problem: Problem, options: argparse.Namespace) -> dict[str, Score]:
    """Name -> seed -> scores of the test samples."""
    found: dict[str, Score] = {}
    for name, method in methods(problem.data).items():
        found[name] = lambda seed, method=method: trained_scores(problem, method, seed, options)
    if problem.data not in IMAGES:
        found |= neighbours(problem)
    return {name: score for name, score in found.items() if options.methods is None or name in options.methods}


def trained_scores(problem: Problem, method: Method, seed: int, options: argparse.Namespace) -> NDArray[Any]:
    network = make_network(problem, method, seed)
    known, unknown = (resized(problem, network, part) for part in (problem.train, problem.test))
    batches = Batches.of(labelled(known), network.preprocessing, batch_size=options.batch_size, seed=seed)
    epochs = options.epochs
    if options.full:
        epochs = 1000 if method.network == "gradcon_autoencoder" else -(-2000 // len(batches))
    settings = TrainingSettings(epochs, method.learning_rate, "adam", "constant", weight_decay=0.0, seed=seed)
    objective: Any = make_objective(method.objective, method.options, Context())
    train(network.module, objective, batches, settings=settings)
    inputs = torch.from_numpy(network.preprocessing.apply(network.preprocessing.arrange(unknown.inputs)))
    with torch.no_grad():
        parts = [objective.scores(network.module, part) for part in inputs.split(256)]
    return torch.cat(parts).numpy()


def make_network(problem: Problem, method: Method, seed: int) -> Network:
    with seeded(seed):
        if problem.data in IMAGES:
            return load_network(method.network, options={"channels": IMAGES[problem.data]})
        features = problem.train.inputs.shape[1]
        hidden = [max(8, 2 * features), max(4, features)]
        preprocessing = Preprocessing("ND", "float32", 1.0, *standard(problem.train.inputs))
        shape = {"features": features, "hidden": hidden, "latent": max(2, features // 4)}
        return load_network(method.network, options=shape, preprocessing=preprocessing)


def standard(rows: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training rows; constant columns keep their unit."""
    std = rows.std(0)
    return tuple(rows.mean(0).tolist()), tuple(np.where(std > 0, std, 1).tolist())


def resized(problem: Problem, network: Network, data: Dataset) -> Dataset:
    """Images at the size that the network takes."""
    from sparsense.data.images import resize

    side = network.input_shape[-1]
    if problem.data not in IMAGES or data.inputs.shape[1] == side:
        return data
    return Dataset(data.name, resize(data.inputs, side, None), data.labels)


def labelled(data: Dataset) -> Dataset:
    return Dataset(data.name, data.inputs, np.zeros(len(data), np.int64))


def neighbours(problem: Problem) -> dict[str, Score]:
    """PyOD's detectors with their defaults, on rows of the same scale; none where it is not installed."""
    if find_spec("pyod") is None:
        return {}
    center, std = (np.array(numbers) for numbers in standard(problem.train.inputs))
    known, unknown = ((part.inputs - center) / std for part in (problem.train, problem.test))

    def make(module: str, name: str) -> Score:
        def score(seed: int) -> NDArray[Any]:
            kind = getattr(import_module(f"pyod.models.{module}"), name)
            drawn = {"random_state": seed} if module == "iforest" else {}
            scores: NDArray[Any] = kind(**drawn).fit(known).decision_function(unknown)
            return scores

        return score

    return {f"pyod {name}": make(module, name) for module, name in NEIGHBOURS.items()}


def evaluate(problem: Problem, scores: NDArray[Any]) -> float:
    assert problem.test.labels is not None
    return auroc(scores[problem.test.labels == 0], scores[problem.test.labels != 0])


def line(row: dict[str, Any]) -> str:
    return f"{row['data']:14} {row['normal']:7} {row['method']:22} {spread(row['auroc'])}  {row['seconds']:7.1f} s"


def spread(values: list[float]) -> str:
    return f"{mean(values):6.2f} +- {stdev(values) if len(values) > 1 else 0:5.2f}"


def print_means(rows: list[dict[str, Any]]) -> None:
    """Over classes, seed by seed, then over seeds."""
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        found = [row["auroc"] for row in rows if (row["data"], row["method"]) == (data, method)]
        if len(found) > 1:
            print(f"{data:14} {'mean':7} {method:22} {spread([mean(seed) for seed in zip(*found, strict=True)])}")


if __name__ == "__main__":
    main()
