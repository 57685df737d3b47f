"""What an epoch costs by each objective, over that of the plain objective, from interleaved epochs.

python benchmarks/training_cost.py                       # published autoencoders, ResNet-20; random images
python benchmarks/training_cost.py --steps 4 --rounds 12 --networks autoencoder

Every round trains each objective's own copy of a network for one epoch of --steps batches, forward, backward and
optimiser, in a random order that the next round reverses; ratios are taken within a round. Times are those of the
processor, of all threads together: what others do on the machine is not counted. An objective with outliers is held
against energy fine-tuning, which passes the same samples and outliers; cross entropy passes half of them. Memory is by
how much the peak of a process of its own grows over an epoch: batches, the network's copies, the optimiser's moments.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.benchmark.latency import median_interval
from sparsense.benchmark.machine import this_machine
from sparsense.benchmark.peak_memory import process_peak
from sparsense.networks import load_network
from sparsense.training.batches import Batches
from sparsense.training.engine import Alone
from sparsense.training.loop import Training
from sparsense.training.objectives import Context, make_objective
from sparsense.training.settings import TrainingSettings

How = tuple[str, dict[str, Any]]
Costs = dict[str, How]
Case = tuple[str, tuple[int, ...], How, argparse.Namespace]
AUTOENCODERS: Costs = {
    "plain": ("reconstruction", {}),
    "amplified": ("loss_amplification", {}),
    "latent norm": ("latent_norm", {"beta": 10.0}),
    "GradCon": ("gradcon", {}),
}
MARGINS = {"margin_in": -5.0, "margin_out": -4.0}
CLASSIFIERS: Costs = {
    "energy fine-tuning": ("energy_fine_tuning", MARGINS),
    "cross entropy": ("cross_entropy", {}),
    "outlier exposure": ("outlier_exposure", {}),
    "GReg": ("gradient_regularization", MARGINS),
    "GReg+": ("gradient_regularization", {**MARGINS, "sampling": "clusters"}),
}
CASES: dict[str, tuple[str, tuple[int, ...], Costs]] = {
    "autoencoder": ("gradcon_autoencoder", (1, 28, 28), AUTOENCODERS),
    "table": ("latent_norm_table", (274,), AUTOENCODERS),
    "resnet20": ("cifar_resnet20", (3, 32, 32), CLASSIFIERS),
}
OPTIONS: dict[str, dict[str, Any]] = {"latent_norm_table": {"output": "sigmoid"}}  # an amplified error has a bound
AIMS = {"GradCon": 3.5, "GReg": 3.0, "latent norm": 1.1, "amplified": 1.1}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    how = f"batches of {options.batch_size}, {options.rounds} rounds, precision {options.precision}"
    print(f"{this_machine().cpu}, {options.threads} thread, {how}\n")
    print("| network | objective | ms per sample | over | ratio [95 % interval] | aim | memory, MiB |")
    print("|---|---|---:|---|---|---:|---:|")
    for name in options.networks:
        source, shape, objectives = CASES[name]
        asked = {key: objectives[key] for key in options.objectives or objectives if key in objectives}
        calls = {key: epochs(source, shape, how, options) for key, how in asked.items()}
        baseline = next(iter(calls))
        times = measured(calls, options.rounds)
        grown = grown_peaks([(source, shape, how, options) for how in asked.values()])
        for (key, taken), peak in zip(times.items(), grown, strict=True):
            ratios = taken / times[baseline]
            low, high = median_interval(ratios)
            per_sample = 1e3 * float(np.median(taken)) / (options.steps * options.batch_size)
            ratio = f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"
            aim = f"{AIMS.get(key, '')} | {peak / 2**20:.0f}"
            print(f"| {source} | {key} | {per_sample:.2f} | {baseline} | {ratio} | {aim} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--objectives", nargs="+", help="only these; the first of them is what others are held against")
    parser.add_argument("--steps", type=int, default=4, help="batches of an epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="of forward passes")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def measured(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Processor seconds of every call, `[rounds]` each."""
    random, order = np.random.default_rng(0), list(calls)
    times = {name: np.empty(rounds) for name in calls}
    for row in range(rounds):
        order = order[::-1] if row % 2 else random.permutation(list(calls)).tolist()
        for name in order:
            start = process_time()
            calls[name]()
            times[name][row] = process_time() - start
    return times


def grown_peaks(cases: list[Case]) -> list[int]:
    """Bytes by which an epoch of each case grows the peak of a process of its own."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(grown_peak, cases, chunksize=1)


def grown_peak(case: Case) -> int:
    """Everything is imported and one step of the smallest network taken before the first look."""
    source, shape, how, options = case
    torch.set_num_threads(options.threads)
    network, smallest, objectives = CASES["table"]
    epochs(network, smallest, objectives["plain"], argparse.Namespace(steps=1, batch_size=2, precision="32"))
    before = process_peak()
    epochs(source, shape, how, options)()
    after = process_peak()
    if before is None or after is None:
        raise SystemExit("measuring memory: this system does not tell the peak of a process")
    return after - before


def epochs(source: str, shape: tuple[int, ...], how: How, options: argparse.Namespace) -> Callable[[], object]:
    """A function that trains for one more epoch; the first is over, so that GradCon has its means."""
    name, asked = how
    module = load_network(source, options=OPTIONS.get(source)).module
    inputs, labels = samples(shape, options.steps * options.batch_size)
    context = Context(outliers=torch.rand(400, *shape))
    batches = Batches(inputs, labels, batch_size=options.batch_size)
    engine = Alone(options.precision)
    training = Training[Any](module, make_objective(name, asked, context), batches, settings(), engine=engine)
    training.epoch()
    _check(module)
    return training.epoch


def settings() -> TrainingSettings:
    return TrainingSettings(epochs=10_000, learning_rate=1e-4, optimizer="adam", schedule="constant")


def samples(shape: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, *shape), torch.arange(count) % 10


def _check(module: nn.Module) -> None:
    if not all(torch.isfinite(p).all() for p in module.parameters()):
        raise SystemExit("a network diverged: its cost says nothing")


if __name__ == "__main__":
    main()
