"""How detection goes while an autoencoder learns one class of MNIST: what is early, what needs its length.

python benchmarks/anomaly_epochs.py --data-root FOLDER --digit 8 --objective gradcon --epochs 15
python benchmarks/anomaly_epochs.py --data-root FOLDER --digit 8 --objective reconstruction --epochs 15
python benchmarks/anomaly_epochs.py --data-root FOLDER --digit 8 --objective latent_norm --beta 1000 --rate 1e-4

GradCon's network, Adam 1e-3, batches of 64, by epochs: AUROC of the error, and of the score with the mean gradient of
the training and with that of fitting data. The latent-norm network with an eighth of its channels, by steps: AUROC of
the score, of the error alone and of the code's norm alone. 250 test images of the digit against 250 of the others,
seed 0, training in bfloat16. For looking, not for choosing: these are test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparsense.benchmark.metrics import auroc
from sparsense.data import SOURCES
from sparsense.networks import load_network
from sparsense.training.objectives import Context, GradCon, LatentNorm, make_objective
from sparsense.training.objectives.gradcon import cosine
from sparsense.training.objectives.parts import weights_of, with_value
from sparsense.training.start import start_at_mean

BATCH, SIDE, FITTED = 64, 250, 2000
SHOWN = (50, 100, 200, 400, 600, 800, 1200, 2000)  # steps
EPOCHS = (1, 2, 4, 7, 10, 15, 20, 30, 45, 70, 100, 150, 200, 300)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    latent = options.objective == "latent_norm"
    known, test, marks = images(options, latent=latent)
    torch.manual_seed(0)
    source, given = ("latent_norm_grey28", {"width": 8}) if latent else ("gradcon_autoencoder", {})
    module = load_network(source, options=given).module.to(memory_format=torch.channels_last).train()
    if latent:
        objective = make_objective("latent_norm", {"beta": options.beta}, Context())
    else:
        start_at_mean(module, known)
        alpha = 0.03 if options.objective == "gradcon" else 0.0  # 0 is the plain error, and means are kept alike
        objective = make_objective("gradcon", {"alpha": alpha}, Context())
    optimizer = torch.optim.Adam(module.parameters(), options.rate or (1e-4 if latent else 1e-3))
    for done, batch in drawn(known, options, latent=latent):
        if batch is None:
            module.eval()
            found = by_code(module, objective, test) if latent else by_gradient(module, objective, test, known)
            module.train()
            print(f"{done}:", {name: round(100 * judged(value, marks), 1) for name, value in found.items()}, flush=True)
            continue
        step(module, objective, optimizer, batch)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--digit", type=int, default=8)
    parser.add_argument("--objective", choices=("gradcon", "reconstruction", "latent_norm"), default="gradcon")
    parser.add_argument("--epochs", type=int, default=15, help="of GradCon and the plain error")
    parser.add_argument("--steps", type=int, default=600, help="of the latent norm")
    parser.add_argument("--beta", type=float, default=1000.0)
    parser.add_argument("--rate", type=float, help="learning rate; default: the published one")
    return parser.parse_args()


def images(options: argparse.Namespace, *, latent: bool) -> tuple[Tensor, Tensor, np.ndarray]:
    """Training images, test images, and which of these are anomalous."""
    train, test = (SOURCES["mnist"](split, size=28, data_root=options.data_root) for split in ("train", "test_all"))
    random = np.random.default_rng(0)
    parts = [test.inputs[test.labels == options.digit], test.inputs[test.labels != options.digit]]
    mixed = np.concatenate([part[random.permutation(len(part))[:SIDE]] for part in parts])
    mean, std = (0.1307, 0.3081) if latent else (0.0, 1.0)
    known, unknown = (
        (torch.from_numpy(part).float().permute(0, 3, 1, 2) / 255 - mean) / std
        for part in (train.inputs[train.labels == options.digit], mixed)
    )
    return known, unknown, np.repeat([0, 1], SIDE)


def drawn(known: Tensor, options: argparse.Namespace, *, latent: bool) -> Iterator[tuple[str, Tensor | None]]:
    """Batches, and no batch wherever it is time to look."""
    generator = torch.Generator().manual_seed(1)
    for number in range(1, (options.steps if latent else options.epochs) + 1):
        order = torch.randperm(len(known), generator=generator)
        for start in range(0, BATCH if latent else len(known) - BATCH + 1, BATCH):
            yield "", known[order[start : start + BATCH]].contiguous(memory_format=torch.channels_last)
        if number in (SHOWN if latent else EPOCHS):
            yield f"{'step' if latent else 'epoch'} {number}", None


def step(module: nn.Module, objective: GradCon | LatentNorm, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(module, (batch, torch.zeros(len(batch))))
    loss.backward()
    if isinstance(objective, GradCon):
        objective.after_backward(module)
    optimizer.step()


def by_code(module: nn.Module, objective: LatentNorm, test: Tensor) -> dict[str, np.ndarray]:
    """Score, error and code of each test image."""
    with torch.no_grad():
        code, output = with_value(module, "encoder", test, doing="looking at codes")
        error, size = ((part).flatten(1).norm(dim=1).numpy() for part in (test - output, code))
    return {"score": error + objective.beta * size, "error": error, "code": size}


def by_gradient(module: nn.Module, objective: GradCon, test: Tensor, known: Tensor) -> dict[str, np.ndarray]:
    """Error of each test image, and scores by either reference."""
    fitting: dict[str, Tensor] = {}
    for batch in torch.split(known[:FITTED], SIDE):
        for name, gradient in gradients(module, batch)[1].items():
            fitting[name] = fitting.get(name, torch.zeros(())) + gradient
    rows = [row(objective, *gradients(module, image), fitting) for image in torch.split(test, 1)]
    return dict(zip(("error", "training", "fitting"), np.array(rows).T, strict=True))


def row(objective: GradCon, error: float, found: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> list[float]:
    aligned = [
        np.mean([float(cosine(found[name], mean[name])) for name in found]) for mean in (objective.means, fitting)
    ]
    return [error, *(float(error - objective.beta * value) for value in aligned)]


def gradients(module: nn.Module, inputs: Tensor) -> tuple[float, dict[str, Tensor]]:
    weights = weights_of(module, ["decoder.*"], doing="looking at gradients")
    error = ((module(inputs) - inputs) ** 2).mean()
    return float(error.detach()), dict(zip(weights, torch.autograd.grad(error, list(weights.values())), strict=True))


def judged(scores: np.ndarray, marks: np.ndarray) -> float:
    return auroc(scores[marks == 0], scores[marks == 1])


if __name__ == "__main__":
    main()
