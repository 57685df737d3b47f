"""GradCon's two references on digits: the mean gradient of the training, as published, or that of the fitting data.

python benchmarks/gradcon_reference.py [--classes 0 1 ...] [--seeds 0 1 2]

One digit against the other nine, trained with the objective `gradcon`; the same network is scored three times: by its
error alone, by the head's score with `reference: training`, and with `reference: fitting`. AUROC in %.
"""

from __future__ import annotations

import argparse
from statistics import fmean, stdev

import torch
from anomaly_rows.cases import Case, Size, cases
from anomaly_rows.measure import Length, evaluate, trained
from anomaly_rows.methods import Trained
from torch import Tensor

from sparsense.training.objectives.gradcon import GradCon


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    rows: list[list[float]] = []
    for seed in options.seeds:
        for case in cases("digits", Size(tuple(options.classes), None, options.test, 28), None):
            rows.append(compared(case, Length(1, options.steps, 20), seed))
            error, training, fitting = rows[-1]
            print(
                f"digit {case.name}, seed {seed}: error {error:.2f}, training {training:.2f}, fitting {fitting:.2f}",
                flush=True,
            )
    for name, column in zip(("error", "training", "fitting"), zip(*rows, strict=True), strict=True):
        print(f"{name:9} {fmean(column):.2f}")
    gains = [fitting - training for _, training, fitting in rows]
    spread = f", standard deviation {stdev(gains):.2f}" if len(gains) > 1 else ""
    print(f"fitting less training: {fmean(gains):+.2f}{spread} over {len(gains)} networks")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150, help="batches of 20")
    parser.add_argument("--test", type=int, default=100, help="at most so many test images per side")
    return parser.parse_args()


def compared(case: Case, length: Length, seed: int) -> list[float]:
    """AUROC of the error alone, and with either reference."""
    fitted = trained(case, Trained("conv", "gradcon"), length, seed)
    module, objective, preprocessing = fitted.network.module, fitted.objective, fitted.network.preprocessing
    known, unknown = (torch.from_numpy(preprocessing.apply(part.inputs)) for part in (case.train, case.test))
    with torch.no_grad():
        error = objective.error(unknown, module(unknown))
    published = objective.scores(module, unknown)
    objective.means = mean_gradients(objective, module, known)
    return [evaluate(case, scores.numpy()) for scores in (error, published, objective.scores(module, unknown))]


def mean_gradients(objective: GradCon, module: torch.nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Of the error of all inputs, by the names of the weights."""
    weights = {name: parameter for name, parameter in module.named_parameters() if name in objective.means}
    found = torch.autograd.grad(objective.error(inputs, module(inputs)).mean(), list(weights.values()))
    return dict(zip(weights, found, strict=True))


if __name__ == "__main__":
    main()
