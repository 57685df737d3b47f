"""How small files are and how long they take to load: checkpoints in fresh processes, dense and sparse ONNX files.

python benchmarks/loading.py [--data-root FOLDER] [--sparsity 0.9] [--repeats 7]

Without a data root the networks have random weights, which changes neither bytes nor times. "Sparse" has the smallest
weights masked. Checkpoints are timed in processor time: what a fresh process pays for importing torch and
sparsense first is told beside it. Times are medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsense.benchmark.onnx_cost import load_time_ms
from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import calibrated, fit_head, parity_inputs, write_detector
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.graph.sparse import with_dense_weights
from sparsense.graph.sparse_form import smaller_form
from sparsense.heads import HEADS
from sparsense.networks import load_network, save_network
from sparsense.networks.network import Network, example_input
from sparsense.oracles import oracle_parity
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.weights import select_weights
from sparsense.recording.passes import saliency_of
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import predict

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FRESH = """
import json, sys
from time import process_time
begun = process_time()
import torch
there = process_time()
from sparsense.networks import load_checkpoint
ready = process_time()
load_checkpoint(sys.argv[1])
print(json.dumps([1000 * (b - a) for a, b in ((begun, there), (there, ready), (ready, process_time()))]))
"""


def main() -> None:
    options = arguments()
    with TemporaryDirectory() as folder:
        print("| checkpoint of ResNet-56 | kB | import torch, ms | import sparsense | load |\n|---|---|---|---|---|")
        for name, network in variants(options):
            file = save_network(network, Path(folder) / name)
            times = [fresh_process(file) for _ in range(options.repeats)]
            cells = [f"{median(column):.0f}" for column in zip(*times, strict=True)]
            print(f"| {name} | {file.stat().st_size / 1000:.0f} | {' | '.join(cells)} |", flush=True)
        print(
            "\n| file of ResNet-20 | kB dense | kB sparse | load dense, ms | load sparse, ms |\n|---|---|---|---|---|"
        )
        for name, sparse, dense in onnx_files(options, Path(folder)):
            sizes = " | ".join(f"{file.stat().st_size / 1000:.0f}" for file in (dense, sparse))
            times_ms = " | ".join(f"{load_time_ms(file, repeats=options.repeats):.0f}" for file in (dense, sparse))
            print(f"| {name} | {sizes} | {times_ms} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def variants(options: argparse.Namespace) -> Iterator[tuple[str, Network]]:
    network = resnet(56, options)
    yield "dense", network
    saliency = saliency_of(network.module, "magnitude")
    cut = prune_channels(network.module, example_input(network.input_shape), saliency, sparsity=0.3).module
    yield "channels-30%", replace(network, module=cut)
    yield f"weights-{options.sparsity:.0%}", sparse_twin(network, options.sparsity)


def resnet(depth: int, options: argparse.Namespace) -> Network:
    weights = Path(options.data_root) / f"nets/resnet{depth}_cifar10.safetensors" if options.data_root else None
    return load_network(f"cifar_resnet{depth}", weights=weights, preprocessing=IMAGENET)


def sparse_twin(network: Network, sparsity: float) -> Network:
    module = deepcopy(network.module)
    select_weights(module, saliency_of(module, "magnitude"), sparsity=sparsity).apply_(module)
    return replace(network, module=module)


def fresh_process(file: Path) -> list[float]:
    command = [sys.executable, "-c", FRESH, str(file)]
    found: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def onnx_files(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Network and detectors of a masked ResNet-20, as they are written and with dense weights."""
    network = sparse_twin(resnet(20, options), options.sparsity)
    model = export_forward(network)
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3)).astype(np.uint8)
    some = {"input": network.preprocessing.apply(network.preprocessing.arrange(images[:3]))}
    content, _ = smaller_form(model.SerializeToString(), some, "network.onnx")
    (folder / "network.onnx").write_bytes(content)
    yield "network", folder / "network.onnx", dense_twin(folder / "network.onnx")
    graph = forward_graph(load_graph(model), network.preprocessing)
    for head in ("energy", "sensnorm", "sensnorm_profile"):
        file = detector(head, graph, network, images, folder)
        yield f"detector, {head}", file, dense_twin(file)


def detector(head: str, graph: ForwardGraph, network: Network, images: NDArray[np.uint8], folder: Path) -> Path:
    labels = predict(network, images[:200]).argmax(1)
    data = Dataset("noise", images[:200], labels)
    scored = fit_head(graph, HEADS[head](), data, preprocessing=network.preprocessing)
    parity = oracle_parity(scored, network, parity_inputs(images[200:]), tolerance=1e-4)
    closed, found = calibrated(scored, scored.judge(images[200:]), 0.05)
    card = {"preprocessing": network.preprocessing.to_dict(), "calibration": found.to_dict(), "head": head}
    write_detector(closed, folder / f"{head}.onnx", card=card, parity=parity)
    return folder / f"{head}.onnx"


def dense_twin(file: Path) -> Path:
    twin = file.with_suffix(".dense.onnx")
    onnx.save(with_dense_weights(onnx.load(file), str(file), maximum_bytes=2**30), twin)
    return twin


if __name__ == "__main__":
    main()
