"""How the sensitivity profile's options are chosen: by the likelihood of in-distribution inputs held out from the fit.

python benchmarks/profile_choices.py --network resnet20 resnet56 --data-root FOLDER [--fit 2000] [--folds 5]

No anomaly is looked at. Per network and option: mean log-likelihood in nats of a held-out profile under the Gaussian
that the head fits to the others (constants left out), minus that of the options by_class and shrinkage 0.01, with the
standard error of this difference over the held-out inputs. The head chooses its shrinkage the same way when it is
fitted (`heads/shrinkage.py`).
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from networks import NETWORKS, folder, known, load
from sparsense.graph import Session, forward_graph, load_graph
from sparsense.heads.classes import ClassMoments
from sparsense.heads.gaussian import whitening
from sparsense.heads.sensnorm_profile import log_norms
from sparsense.to_onnx import export_forward

ORDERS = (1.0, 2.0, 5.0)
USUAL = (True, 1e-2)
OPTIONS = list(product((True, False), (1e-4, 1e-3, 1e-2, 1e-1)))
Array = NDArray[np.float64]


def profiles(name: str, root: Path, count: int) -> tuple[Array, NDArray[np.int64]]:
    """Profiles of training images and their predicted classes."""
    network = load(name, root)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    session = Session(graph.model, [log_norms(graph, ORDERS, "weight", None), graph.output], threads=1)
    images = known(name, root)[0].subset(count).inputs
    rows = [session(images[start : start + 8]) for start in range(0, len(images), 8)]
    vectors, logits = (np.concatenate(column) for column in zip(*rows, strict=True))
    return vectors.astype(np.float64), logits.argmax(1)


def likelihoods(
    vectors: Array, classes: NDArray[np.int64], part: NDArray[np.int64], option: tuple[bool, float]
) -> Array:
    """Log-likelihood of every profile by a Gaussian fitted without its part, up to a constant."""
    by_class, shrinkage = option
    classes = classes if by_class else np.zeros_like(classes)
    found = np.empty(len(vectors))
    for fold in range(part.max() + 1):
        out = part == fold
        moments = ClassMoments.of([(vectors[~out], classes[~out])])
        means = np.tile(moments.mean, (classes.max() + 1, 1))
        means[moments.classes] = moments.means
        whiten = whitening(moments.mean, moments.within, shrinkage=shrinkage)
        white = (vectors[out] - means[classes[out]]) @ whiten.T
        found[out] = np.linalg.slogdet(whiten)[1] - (white**2).sum(1) / 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=["resnet20"])
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--fit", type=int, default=2000)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    root = folder(options.data_root)
    print("| network | by_class | shrinkage | log-likelihood over True, 0.01 |\n|---|---|---:|---:|")
    for name in options.network:
        vectors, classes = profiles(name, root, options.fit)
        part = np.random.default_rng(0).integers(0, options.folds, len(vectors))
        usual = likelihoods(vectors, classes, part, USUAL)
        for option in OPTIONS:
            gain = likelihoods(vectors, classes, part, option) - usual
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            print(f"| {name} | {option[0]} | {option[1]:g} | {gain.mean():+.1f} ± {error:.1f} |", flush=True)


if __name__ == "__main__":
    main()
