"""Subnetworks without training: learnt masks beside magnitude masks and the dense network, for classes and anomalies.

The weights are those of the pretrained network everywhere; batch norms are measured anew on training images. The mask
of the best epoch is kept, by the objective on training images that are held out; test images and anomalies are looked
at once per network, at its end. Of several seeds (order and choice of the training images) a row has the mean with the
standard deviation, and of AUROCs the mean ends of the 95 % bootstrap interval over images.

python benchmarks/learned_masks.py --network cifar_resnet20 --weights nets/resnet20_cifar10.safetensors \
    --mean .485 .456 .406 --std .229 .224 .225 --data cifar10 --split test_all --data-root FOLDER \
    --anomalies svhn textures tiny_imagenet --outliers tiny_imagenet --seeds 0 1 --precision bf16
Without arguments: the bundled digits network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import fmean, stdev
from time import process_time
from typing import Any

import torch
from cards import save_card
from pruning_accuracy import inputs, load, options_of, saliency
from torch import nn

from sparsense.benchmark.uncertainty import estimate
from sparsense.data import SOURCES, Dataset
from sparsense.detector import fit_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks.network import Network
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.search import MaskSearch
from sparsense.pruning.weights import select_weights
from sparsense.recipe.training import ObjectiveSection, SearchSection
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import accuracy
from sparsense.training.run import Samples, make_search_run

OBJECTIVES = {
    "accuracy": "cross_entropy",
    "adversarial": "adversarial",
    "outlier exposure": "outlier_exposure",
    "noise": "noise",
}
Found = dict[str, Any]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    network, splits = load(options)
    root = {"data_root": options.data_root} if options.data_root else {}
    outliers = SOURCES[options.outliers]("auxiliary" if options.outliers == "tiny_imagenet" else "test", **root)
    anomalies = {name: SOURCES[name]("test", **root).subset(options.scored) for name in options.anomalies}
    refuse_test_images({"train": splits["train"], "outliers": outliers}, {"test": splits["test"], **anomalies})
    samples = Samples(splits["train"], outliers)
    rows = []
    print(header(options, splits["test"]))
    for sparsity, name, module, seconds in networks(network, samples, options):
        found = [measured(replace(network, module=each), splits, anomalies, options) for each in module]
        rows.append({"sparsity": sparsity, "name": name, "seconds": seconds, "runs": found})
        print(line(rows[-1]), flush=True)
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of(parser)
    parser.add_argument("--anomalies", nargs="+", default=["letters", "inverted_digits", "noisy_digits"])
    parser.add_argument("--outliers", default="photo_patches", help="what outlier exposure learns from")
    parser.add_argument(
        "--scored", type=int, default=300, help="images of each set that heads score, test twice as many"
    )
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--heads", nargs="+", default=["msp", "energy", "sensnorm"])
    parser.add_argument("--init", choices=("hydra", "edge_popup", "magnitude"), default="magnitude")
    parser.add_argument("--images", type=int, default=1000, help="training images of a search")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    return parser.parse_args()


def refuse_test_images(learnt: dict[str, Dataset], judged: dict[str, Dataset]) -> None:
    """A mask must not have seen what it is judged on."""
    for name, one in learnt.items():
        seen = {row.tobytes() for row in one.inputs}
        for other, two in judged.items():
            if shared := sum(row.tobytes() in seen for row in two.inputs):
                raise SystemExit(f"{shared} images of {other} are also among {name}; take other sets")


def networks(
    network: Network, samples: Samples, options: argparse.Namespace
) -> Iterator[tuple[float, str, list[nn.Module], float]]:
    """Sparsity, name, a module per seed, seconds of processor time per search."""
    yield 0.0, "dense", [network.module], 0.0
    for sparsity in options.sparsities:
        yield sparsity, "magnitude", [magnitude(network, samples.train, sparsity, options)], 0.0
        for name in options.objectives:
            begun = process_time()
            found = [learnt(network, samples, name, sparsity, seed, options) for seed in options.seeds]
            yield sparsity, name, found, (process_time() - begun) / len(found)


def magnitude(network: Network, train: Dataset, sparsity: float, options: argparse.Namespace) -> nn.Module:
    values = saliency(network, "magnitude", train, options, 0)
    module = deepcopy(network.module)
    select_weights(module, values, sparsity=sparsity, scope="global").apply_(module)
    return measured_anew(network, module, train, options)


def learnt(
    network: Network, samples: Samples, name: str, sparsity: float, seed: int, options: argparse.Namespace
) -> nn.Module:
    section = SearchSection(
        init=options.init, epochs=options.epochs, batch_size=options.batch_size,
        learning_rate=options.learning_rate, precision=options.precision,
        objective=ObjectiveSection(name=OBJECTIVES[name]),
    )  # fmt: skip
    search = MaskSearch(network.module, sparsity=sparsity, init=options.init, seed=seed)
    drawn = replace(samples, train=samples.train.subset(options.images, seed=seed))
    training = make_search_run(network, search, drawn, section, seed=seed)
    while not training.done:
        training.epoch()
    return measured_anew(network, search.result()[0], samples.train, options)


def measured_anew(network: Network, module: nn.Module, train: Dataset, options: argparse.Namespace) -> nn.Module:
    images = inputs(network, train.subset(options.batch_norm, seed=0))
    reestimate_batch_norm(module, torch.split(images, 100))
    return module


def measured(
    network: Network, splits: dict[str, Dataset], anomalies: dict[str, Dataset], options: argparse.Namespace
) -> Found:
    """Accuracy, and of every head and set the AUROC with the ends of its interval."""
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    fitting = splits["train"].subset(options.samples, seed=0)
    test = splits["test"].subset(2 * options.scored)
    found: Found = {"accuracy": accuracy(network, splits["test"])}
    for name in options.heads:
        scored = fit_head(graph, HEADS[name](), fitting, preprocessing=network.preprocessing)
        usual = scored.scores(test.inputs)
        for key, data in anomalies.items():
            found[f"{name} {key}"] = estimate(usual, scored.scores(data.inputs), metrics=("auroc",))["auroc"]
    return found


def header(options: argparse.Namespace, test: Dataset) -> str:
    columns = ["sparsity", "mask", "accuracy", *(f"{h} {a}" for h in options.heads for a in options.anomalies), "CPU s"]
    told = (
        f"{options.network}: {len(test)} test images for accuracies, {2 * options.scored} of them and {options.scored} "
        f"of each anomalous set for AUROCs; searches from {options.init} over {options.images} images, "
        f"{options.epochs} epochs, seeds {options.seeds}"
    )
    return f"{told}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def line(row: Found) -> str:
    runs = row["runs"]
    cells = [spread([run["accuracy"] for run in runs])]
    cells += [area([run[key] for run in runs]) for key in runs[0] if key != "accuracy"]
    return f"| {row['sparsity']:.0%} | {row['name']} | {' | '.join(cells)} | {row['seconds']:.0f} |"


def area(found: Sequence[Sequence[float]]) -> str:
    value, low, high = (fmean(column) for column in zip(*found, strict=True))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" + (f" ± {stdev(v for v, *_ in found):.3f}" if len(found) > 1 else "")


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
