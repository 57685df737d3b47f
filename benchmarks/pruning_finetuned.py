"""Accuracy after pruning channels and fine-tuning, for asked factors of multiply-adds and several seeds.

Criterion and scope are those with the best accuracy, on training images, right after pruning; test images are looked at
once per network, at its end.

python benchmarks/pruning_finetuned.py --network cifar_resnet56 --weights nets/resnet56_cifar10.safetensors \
    --mean .485 .456 .406 --std .229 .224 .225 --data cifar10 --split test_all --shifted cifar10_jpeg \
    --data-root FOLDER --factors 2.1 2.6 --seeds 0 1 2 --epochs 6 --objectives distillation
Without arguments: the bundled digits network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
from cards import save_card
from pruning_accuracy import channel_options, inputs, load, options_of, saliency
from torch import nn

from sparsense.benchmark.uncertainty import wilson_interval
from sparsense.data import SOURCES, Dataset
from sparsense.data.dataset import shuffled
from sparsense.networks.network import Network, example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.report import PruneReport
from sparsense.training.batches import Batches
from sparsense.training.engine import make_engine
from sparsense.training.evaluate import accuracy
from sparsense.training.loop import Training
from sparsense.training.objectives import OBJECTIVES
from sparsense.training.settings import TrainingSettings


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    network, splits = load(options)
    if options.shifted:
        splits["shifted"] = SOURCES[options.shifted]("test", data_root=options.data_root)
    if options.held_out:
        order = shuffled(len(splits["train"]), seed=0).tolist()
        splits = {"train": splits["train"].subset(order[options.held_out :]),
                  "test": splits["train"].subset(order[: options.held_out])}  # fmt: skip
    dense = {name: accuracy(network, splits[name]) for name in judged(splits)}
    print(
        f"{options.network} on {options.data}: dense {told(dense)}, {len(splits['test'])} test samples; "
        f"fine-tuned on {len(splits['train'])}, {options.epochs} epochs, {options.precision}"
    )
    rows = []
    for factor in options.factors:
        for objective in options.objectives:
            runs = [run(network, splits, factor, objective, seed, options) for seed in options.seeds]
            rows.append({"factor": factor, "objective": objective, "runs": runs})
            print(line(rows[-1], dense, len(splits["test"])), flush=True)
    save_card(options, rows, dense=dense)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of(parser)
    parser.add_argument("--shifted", help="another source of test images of the same classes, only reported")
    parser.add_argument("--factors", type=float, nargs="+", default=[2.1, 2.6], help="fewer multiply-adds")
    parser.add_argument("--objectives", nargs="+", default=["cross_entropy"], choices=("cross_entropy", "distillation"))
    parser.add_argument("--criteria", nargs="+", default=["magnitude", "fpgm", "taylor"])
    parser.add_argument("--scopes", nargs="+", default=["global", "layer"])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--mix", type=float, default=0.0, help="of distillation: mixed inputs")
    parser.add_argument("--held-out", type=int, default=0, help="judge by so many training images instead of the test")
    parser.add_argument("--precision", choices=("32", "bf16"), default="bf16")
    return parser.parse_args()


def run(
    network: Network, splits: dict[str, Dataset], factor: float, objective: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One pruned and fine-tuned network, measured at its end."""
    started = perf_counter()
    chosen, report, before = chosen_report(network, splits["train"], factor, seed, options)
    smaller = replace(network, module=report.module)
    fine_tune(network, smaller, splits["train"], objective, seed, options)
    found = {name: accuracy(smaller, splits[name]) for name in judged(splits)}
    print(f"  seed {seed}, {factor}x, {objective}, {chosen} ({before:.2%} before training): {told(found)}", flush=True)
    return {
        "seed": seed,
        "chosen": chosen,
        "before_training_on_train": before,
        "multiply_adds_factor": report.before.multiply_adds / report.after.multiply_adds,
        "parameters_factor": report.before.parameters / report.after.parameters,
        "seconds": perf_counter() - started,
        **found,
    }


def chosen_report(
    network: Network, train: Dataset, factor: float, seed: int, options: argparse.Namespace
) -> tuple[str, PruneReport, float]:
    """The way of pruning that keeps most accuracy on training images before any training."""
    held = train.subset(1000, seed=seed + 1000)
    best: tuple[str, PruneReport, float] | None = None
    for criterion in options.criteria:
        values = saliency(network, criterion, train, options, seed)
        for scope in options.scopes:
            report = prune(network, values, criterion, scope, factor)
            measure_anew(network, report.module, train, options, seed)
            right = accuracy(replace(network, module=report.module), held)
            if best is None or right > best[2]:
                best = (f"{criterion} {scope}", report, right)
    assert best is not None
    return best


def prune(network: Network, values: Any, criterion: str, scope: Any, factor: float) -> PruneReport:
    example = example_input(network.input_shape)
    options = replace(channel_options(criterion), measure="multiply_adds")
    return prune_channels(network.module, example, values, sparsity=1 - 1 / factor, scope=scope, options=options)


def measure_anew(network: Network, module: nn.Module, train: Dataset, options: argparse.Namespace, seed: int) -> None:
    images = inputs(network, train.subset(options.batch_norm, seed=seed))
    reestimate_batch_norm(module, [images[i : i + 200] for i in range(0, len(images), 200)])


def fine_tune(
    dense: Network,
    smaller: Network,
    train: Dataset,
    name: str,
    seed: int,
    options: argparse.Namespace,
    *,
    after_step: Callable[[], object] = lambda: None,
) -> None:
    """In place; channels last, because that is faster here."""
    last: Any = torch.channels_last if len(dense.input_shape) == 3 else torch.contiguous_format
    teacher = deepcopy(dense.module).to(memory_format=last).requires_grad_(False)
    objective: Any = (
        OBJECTIVES[name](teacher=teacher, mix=options.mix) if name == "distillation" else OBJECTIVES[name]()
    )
    augment = ["shift", "flip"] if dense.input_shape[0] == 3 else []
    batches = Batches.of(train, dense.preprocessing, batch_size=128, augment=augment, seed=seed)
    settings = TrainingSettings(
        epochs=options.epochs, learning_rate=options.learning_rate, schedule="one_cycle", seed=seed
    )
    module = smaller.module.to(memory_format=last)
    training = Training(module, objective, batches, settings, engine=make_engine(precision=options.precision))
    while not training.done:
        training.epoch(after_step=after_step)
    module.to(memory_format=torch.contiguous_format)


def judged(splits: dict[str, Dataset]) -> list[str]:
    return [name for name in splits if name != "train"]


def told(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2%}" for name, value in found.items())


def line(row: dict[str, Any], dense: dict[str, float], samples: int) -> str:
    runs = row["runs"]
    parts = [f"{name} {spread([r[name] for r in runs])} ({mean(r[name] for r in runs) - dense[name]:+.2%})"
             for name in dense]  # fmt: skip
    low, high = wilson_interval(round(mean(r["test"] for r in runs) * samples), samples)
    multiply_adds, parameters = (mean(r[f"{what}_factor"] for r in runs) for what in ("multiply_adds", "parameters"))
    seconds = mean(r["seconds"] for r in runs)
    chosen = ", ".join(r["chosen"] for r in runs)
    return (
        f"{multiply_adds:.2f}x multiply-adds, {parameters:.2f}x parameters, {row['objective']} ({chosen}; "
        f"{seconds:.0f} s each): {'; '.join(parts)}; sampling of {samples} images: [{low:.2%}, {high:.2%}]"
    )


def spread(values: list[float]) -> str:
    return f"{mean(values):.2%}" + (f" ± {stdev(values):.2%}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
