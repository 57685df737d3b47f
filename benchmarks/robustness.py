"""Does pruning make expensive defences affordable? Dense, pruned, and as many pruned networks as the dense one costs.

python benchmarks/robustness.py                                          (bundled digits, about a minute)
python benchmarks/robustness.py --recipe recipes/cifar10-resnet20.yaml --data-root FOLDER --sparsity 0.5 --epochs 2 \
    --train 8000 --radii 0.004 0.008 --sigma 0.06 --samples 100

Attacks are white-box on whatever answers, the ensemble included: PGD on cross entropy and PGD on the margin; an input
counts as right if it is right after neither. Detection is by energy, threshold at 5 % false alarms. Certificates cost
the same multiply-adds per input: a network of a quarter of the cost votes on four times as many noisy copies.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.benchmark.metrics import auroc
from sparsense.calibrate import calibrate
from sparsense.data import Dataset
from sparsense.data.root import first_data_root
from sparsense.networks import load_checkpoint
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.data import load_data
from sparsense.pipeline.prune_recipe import prune_recipe
from sparsense.pruning.cost import measure_cost
from sparsense.quantise.judge import energy
from sparsense.recipe import Recipe, load_recipe
from sparsense.robustness.attack import Array, Ball, Slope, pgd
from sparsense.robustness.certify import Smoothing, certified_accuracy, certify
from sparsense.training.initial import open_network

FALSE_ALARMS = 0.05


class Ensemble(nn.Module):
    """The logarithm of the mean of the members' probabilities."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        answers = torch.stack([torch.log_softmax(member(inputs), 1) for member in self.members])
        return torch.logsumexp(answers, 0) - math.log(len(self.members))


@dataclass(frozen=True)
class Contender:
    """What answers, and its multiply-adds per input."""

    name: str
    network: Network
    cost: int

    def logits(self, inputs: Array) -> Array:
        with torch.no_grad():
            parts = [self.network.module(part) for part in torch.split(self._seen(inputs), 128)]
        return torch.cat(parts).double().numpy()

    def scores(self, inputs: Array) -> Array:
        """Energy; of several networks the mean of theirs."""
        module = self.network.module
        members = list(module.members) if isinstance(module, Ensemble) else [module]
        found = [Contender(self.name, replace(self.network, module=member), 0).logits(inputs) for member in members]
        return np.mean([energy(logits) for logits in found], axis=0)

    def slope(self, labels: NDArray[Any], *, margin: bool) -> Slope:
        """The loss that an attack makes large, with its gradient by inputs in [0, 1]."""
        wanted = torch.from_numpy(labels)

        def slope(inputs: Array) -> tuple[Array, Array]:
            pixels = torch.from_numpy(inputs.astype(np.float32)).requires_grad_()
            logits = self.network.module((pixels - self._shape("mean")) / self._shape("std"))
            values = (
                _margin(logits, wanted) if margin else nn.functional.cross_entropy(logits, wanted, reduction="none")
            )
            (gradient,) = torch.autograd.grad(values.sum(), pixels)
            return values.detach().double().numpy(), gradient.double().numpy()

        return slope

    def _seen(self, inputs: Array) -> Tensor:
        return (torch.from_numpy(inputs.astype(np.float32)) - self._shape("mean")) / self._shape("std")

    def _shape(self, name: str) -> Tensor:
        return torch.tensor(getattr(self.network.preprocessing, name)).reshape(1, -1, 1, 1)


def _margin(logits: Tensor, wanted: Tensor) -> Tensor:
    truth = nn.functional.one_hot(wanted, logits.shape[1]).bool()
    return logits.masked_fill(truth, -torch.inf).amax(1) - logits[truth]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    recipe, began = _recipe(options), perf_counter()
    data = load_data(recipe, options.data_root)
    contenders = make_contenders(recipe, options)
    test = data.test.subset(options.samples, seed=0)
    print(heading(contenders[0], test, options))
    print("|---|---:|" + "---:|" * (5 + 2 * len(options.radii)))
    for contender in contenders:
        print(line(contender, contenders[0], test, data.calibration, options), flush=True)
    print(f"\n{perf_counter() - began:.0f} s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(Path(__file__).parents[1] / "recipes/sweeps/digits-point.yaml"))
    parser.add_argument("--data-root")
    parser.add_argument("--sparsity", type=float, default=0.5, help="of the multiply-adds' channels")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--train", type=int, help="training samples, at most")
    parser.add_argument("--samples", type=int, default=100, help="of the test set")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.03, 0.06], help="in L-inf, for pixels in [0, 1]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sigma", type=float, default=0.25, help="of the noise of certificates")
    parser.add_argument("--copies", type=int, default=300, help="noisy copies that the dense network may see")
    parser.add_argument("--certified", type=int, default=40, help="inputs with a certificate")
    return parser.parse_args()


def _recipe(options: argparse.Namespace) -> Recipe:
    limit = {} if options.train is None else {"data.train.limit": options.train}
    return load_recipe(
        options.recipe,
        {"prune.sparsity": options.sparsity, "finetune.epochs": options.epochs, "benchmark": None, **limit},
    )


def make_contenders(recipe: Recipe, options: argparse.Namespace) -> list[Contender]:
    """Dense; pruned; and as many pruned ones, each of another seed, as the dense one costs."""
    root = first_data_root(options.data_root, recipe.data_root)
    dense = open_network(recipe.network, root, recipe.export.layout)
    whole = cost(dense)
    members = [pruned(recipe, options, dense, seed=0)]
    members += [pruned(recipe, options, dense, seed=seed) for seed in range(1, max(whole // cost(members[0]), 1))]
    several = replace(dense, module=Ensemble([member.module for member in members]).eval())
    return [
        Contender("dense", dense, whole),
        Contender("pruned", members[0], cost(members[0])),
        Contender(f"{len(members)} pruned", several, sum(map(cost, members))),
    ]


def pruned(recipe: Recipe, options: argparse.Namespace, dense: Network, *, seed: int) -> Network:
    with TemporaryDirectory() as folder:
        made = prune_recipe(
            recipe.model_copy(update={"seed": seed}), output=Path(folder) / "run", data_root=options.data_root
        )
        return load_checkpoint(made / "network.safetensors", source=dense.source)


def cost(network: Network) -> int:
    return measure_cost(network.module, example_input(network.input_shape)).multiply_adds


def pixels(data: Dataset) -> Array:
    """Channels first, in [0, 1]."""
    return np.moveaxis(data.inputs, -1, 1) / 255.0


def heading(dense: Contender, test: Dataset, options: argparse.Namespace) -> str:
    print(
        f"{dense.network.source}, {len(test)} test samples, PGD of {options.steps} steps in L-inf; certificates: sigma "
        f"{options.sigma:g}, L2 radius {options.sigma:g}, {options.certified} inputs. In %.\n"
    )
    attacked = [f"{what} at {radius:g}" for radius in options.radii for what in ("right", "right or flagged")]
    return f"| | cost | right | {' | '.join(attacked)} | flagged | AUROC of attacks | noisy copies | certified |"


def line(contender: Contender, dense: Contender, test: Dataset, held_out: Dataset, options: argparse.Namespace) -> str:
    """One row; the last attack is the one that detection is judged on."""
    assert test.labels is not None
    inputs = pixels(test)
    threshold = calibrate(contender.scores(pixels(held_out)), FALSE_ALARMS).threshold
    clean = contender.logits(inputs).argmax(1) == test.labels
    cells, moved = [percent(clean)], inputs
    for radius in options.radii:
        right, stopped = clean.copy(), np.ones(len(clean), bool)
        for margin in (False, True):
            slope, random = contender.slope(test.labels, margin=margin), np.random.default_rng(0)
            moved = pgd(inputs, slope, Ball("linf", radius), steps=options.steps, random=random)
            still = contender.logits(moved).argmax(1) == test.labels
            right, stopped = right & still, stopped & (still | (contender.scores(moved) > threshold))
        cells += [percent(right), percent(stopped)]
    scores = contender.scores(moved)
    cells += [percent(scores > threshold), f"{100 * auroc(contender.scores(inputs), scores):.1f}"]
    cells += certified(contender, dense, test, options)
    return f"| {contender.name} | {contender.cost / dense.cost:.2f} | {' | '.join(cells)} |"


def certified(contender: Contender, dense: Contender, test: Dataset, options: argparse.Namespace) -> list[str]:
    """How many noisy copies the same compute pays for, and the accuracy that they certify."""
    assert test.labels is not None
    copies = round(options.copies * dense.cost / contender.cost)
    smoothing = Smoothing(options.sigma, max(copies // 10, 10), copies)
    random, some = np.random.default_rng(0), test.subset(slice(options.certified))
    assert some.labels is not None

    def classify(noisy: Array) -> NDArray[Any]:
        return np.asarray(contender.logits(noisy).argmax(1))

    classes = contender.logits(pixels(some)[:1]).shape[1]
    found = [certify(classify, image, smoothing, classes=classes, random=random) for image in pixels(some)]
    return [str(copies), f"{100 * certified_accuracy(found, some.labels, [options.sigma])[0]:.1f}"]


def percent(good: NDArray[np.bool_]) -> str:
    return f"{100 * good.mean():.1f}"


if __name__ == "__main__":
    main()
