"""Other libraries in the same run: detectors of pytorch-ood, the pruner of Torch-Pruning; what is missing is left out.

python benchmarks/peers.py --network resnet20 --data-root FOLDER

Detectors: the same pretrained network, fitting images, test images and anomalies for both; theirs run in torch on the
features of a forward pass, ours are finished ONNX files. Gradients beside torch's loops are in gradient_cost.py, PyOD
in anomaly_training.py. Pruning: channels by magnitude in the same share, batch norms measured anew on the same images;
ours also as it is exported by default, padded where that is faster. One thread, interleaved rounds, ratios to the dense
network in the same runtime.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from cards import save_card
from head_cost import detector, forward, in_slices
from pruning_speed import measured
from torch import Tensor, nn

from networks import NETWORKS, folder, known, load, strange
from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.benchmark.metrics import auroc
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.data import Dataset
from sparsense.detector import fit_head
from sparsense.graph import ForwardGraph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks.network import Network, example_input
from sparsense.pruning.align import align_widths
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.recording.passes import saliency_of
from sparsense.to_onnx import export_forward
from sparsense.training.evaluate import accuracy

Array = np.ndarray
Score = Callable[[Tensor], Any]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    root = folder(options.data_root)
    network, (train, test) = load(options.network, root), known(options.network, root)
    sets = {key: part.subset(options.samples) for key, part in strange(options.network, root).items()}
    rows = list(heads(network, train, test.subset(2 * options.samples), sets, options))
    rows += list(pruners(network, train, test, options))
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--fit", type=int, default=1000, help="images to fit on")
    parser.add_argument("--bank", type=int, default=1000, help="the same for heads with a bank of inputs")
    parser.add_argument("--samples", type=int, default=300, help="of each anomalous set, twice as many test images")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.3, 0.5], help="shares of the channels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", help="JSON file")
    return parser.parse_args()


# --- detectors --------------------------------------------------------------------------------------------------------


def heads(
    network: Network, train: Dataset, test: Dataset, sets: Mapping[str, Dataset], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    library = pytorch_ood()
    if library is None:
        print("pytorch-ood is not installed: pip install --no-deps pytorch-ood")
        return
    graph = forward(network)
    fitting = train.subset(options.fit, seed=0)
    labels = torch.from_numpy(fitting.labels)
    seen = Known(library, linear(network.module), features_of(network, network.seen(fitting.inputs)), labels)
    print(f"{options.network}: AUROC over {len(test)} test images and {options.samples} of each set; time of one call "
          "over the plain ONNX forward pass\n")  # fmt: skip
    print("| head | library | " + " | ".join(sets) + " | " + " | ".join(f"batch {n}" for n in options.batch) + " |")
    print("|---|---|" + "---:|" * (len(sets) + len(options.batch)))
    for name, make in THEIRS.items():
        scores: dict[str, Score] = {
            "sparsense": ours(name, graph, network, fitting),
            "pytorch-ood": theirs(network, make(seen)),
        }
        times = head_times(name, graph, network, fitting, scores["pytorch-ood"], test, options)
        for who, score in scores.items():
            usual = score(test)
            areas = {key: auroc(usual, score(part)) for key, part in sets.items()}
            ratios = {n: found[who].ratio for n, found in times.items()}
            print(f"| {name} | {who} | " + " | ".join(f"{value:.3f}" for value in areas.values())
                  + " | " + " | ".join(f"{value:.2f}x" for value in ratios.values()) + " |", flush=True)  # fmt: skip
            yield {"table": "heads", "head": name, "library": who, "auroc": areas, "ratio": ratios}


def pytorch_ood() -> Any | None:
    """Its detectors, without the parts of the package that load torchvision."""
    found = find_spec("pytorch_ood")
    if found is None or found.origin is None:
        return None
    bare = ModuleType("pytorch_ood")
    bare.__path__ = [str(Path(found.origin).parent)]
    sys.modules.setdefault("pytorch_ood", bare)
    return import_module("pytorch_ood.detector")


def linear(module: nn.Module) -> nn.Linear:
    """The output layer."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]


@dataclass(frozen=True)
class Known:
    """What their detectors are made of: the library, the output layer, features `[N, D]` and labels `[N]`."""

    peer: Any
    last: nn.Linear
    z: Tensor
    y: Tensor


THEIRS: dict[str, Callable[[Known], Score]] = {
    "msp": lambda k: lambda x: k.peer.MaxSoftmax.score(k.last(x)),
    "energy": lambda k: lambda x: k.peer.EnergyBased.score(k.last(x)),
    "mahalanobis": lambda k: k.peer.Mahalanobis(None).fit_features(k.z, k.y).predict_features,
    "knn": lambda k: k.peer.KNN(None, k=10).fit_features(k.z, k.y).predict_features,
    "vim": lambda k: k.peer.ViM(None, 32, k.last.weight, k.last.bias).fit_features(k.z, k.y).predict_features,
    "nnguide": lambda k: k.peer.NNGuide(None, k.last, k=10).fit_features(k.z, k.y).predict_features,
}
OPTIONS: dict[str, dict[str, Any]] = {"knn": {"k": 10}, "vim": {"dim": 32}, "nnguide": {"k": 10}}


def ours(name: str, graph: ForwardGraph, network: Network, fitting: Dataset) -> Any:
    head = HEADS[name](**OPTIONS.get(name, {}))
    scored = fit_head(graph, head, fitting, preprocessing=network.preprocessing)
    return lambda data: scored.scores(data.inputs)


def theirs(network: Network, score: Score) -> Any:
    def scores(data: Dataset) -> Array:
        with torch.no_grad():
            return np.asarray(torch.as_tensor(score(features_of(network, network.seen(data.inputs)))), np.float64)

    return scores


def features_of(network: Network, inputs: Tensor) -> Tensor:
    """What the output layer sees, `[N, D]`."""
    seen: list[Tensor] = []
    hook = linear(network.module).register_forward_pre_hook(lambda _, values: seen.append(values[0].detach()))
    with torch.no_grad():
        for part in inputs.split(100):
            network.module.eval()(part)
    hook.remove()
    return torch.cat(seen)


def head_times(
    name: str, graph: ForwardGraph, network: Network, fitting: Dataset, score: Any, test: Dataset,
    options: argparse.Namespace,
) -> dict[int, dict[str, Latency]]:  # fmt: skip
    """Batch size -> library -> time over the plain forward pass; raw images to scores for both."""
    text = " ".join([name, *(f"{key}={value}" for key, value in OPTIONS.get(name, {}).items())])
    ready = in_slices(detector(text, graph, network, fitting, options))
    plain = in_slices(with_outputs(graph.model, [graph.output]))
    found = {}
    for batch in options.batch:
        some = test.subset(slice(batch))
        calls = {
            "plain": lambda some=some: plain(some.inputs),
            "sparsense": lambda some=some: ready(some.inputs),
            "pytorch-ood": lambda some=some: score(some),
        }
        found[batch] = compare_latency(calls, rounds=options.rounds, baseline="plain")
    return found


# --- pruning ----------------------------------------------------------------------------------------------------------


def pruners(network: Network, train: Dataset, test: Dataset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    example = example_input(network.input_shape)
    dense = measure_cost(network.module, example).multiply_adds
    images = network.seen(train.subset(1000, seed=0).inputs).split(100)
    print(f"\n{options.network}: accuracy on {len(test)} test images right after pruning, without training\n")
    print(
        "| channels removed | by | multiply-adds | accuracy | " + " | ".join(f"batch {n}" for n in options.batch) + " |"
    )
    print("|---|---|" + "---:|" * (2 + len(options.batch)))
    for sparsity in options.sparsity:
        made = {"dense": network.module, **ours_pruned(network, sparsity), **theirs_pruned(network, sparsity)}
        for name, module in made.items():
            if name != "dense":
                reestimate_batch_norm(module, images)
        times = pruned_times(network, made, options)
        for name, module in made.items():
            left = measure_cost(module, example).multiply_adds / dense
            right = accuracy(replace(network, module=module), test)
            ratios = {batch: found[name].ratio for batch, found in times.items()}
            print(f"| {sparsity:.0%} | {name} | {left:.1%} | {right:.1%} | "
                  + " | ".join(f"{value:.2f}x" for value in ratios.values()) + " |", flush=True)  # fmt: skip
            yield {
                "table": "pruning",
                "sparsity": sparsity,
                "by": name,
                "left": left,
                "accuracy": right,
                "ratio": ratios,
            }


def ours_pruned(network: Network, sparsity: float) -> dict[str, nn.Module]:
    """As selected, and as exported: widths as the runtime likes them, with the same outputs."""
    example, saliency = example_input(network.input_shape), saliency_of(network.module, "magnitude")
    module = prune_channels(network.module, example, saliency, sparsity=sparsity, scope="layer").module
    aligned = align_widths(module, example, measure=measured(network), multiple=[8, 16])
    exact = {name: each for name, each in aligned.variants.items() if each.exact}
    times = measured(network)({name: each.module for name, each in exact.items()})
    best = min(times, key=lambda name: times[name])
    return {"sparsense": module, "sparsense, aligned": exact[best].module}


def theirs_pruned(network: Network, sparsity: float) -> dict[str, nn.Module]:
    library = import_module("torch_pruning")
    module, example = deepcopy(network.module).eval(), example_input(network.input_shape)
    pruner = library.pruner.BasePruner(
        module, example, importance=library.importance.MagnitudeImportance(p=2), pruning_ratio=sparsity,
        ignored_layers=[linear(module)],
    )  # fmt: skip
    pruner.step()
    return {"Torch-Pruning": module}


def pruned_times(
    network: Network, made: Mapping[str, nn.Module], options: argparse.Namespace
) -> dict[int, dict[str, Latency]]:
    files = {name: export_forward(replace(network, module=module)).SerializeToString() for name, module in made.items()}
    return {
        batch: compare_latency(
            {name: onnx_call(file, batch=batch) for name, file in files.items()},
            rounds=options.rounds, baseline="dense",
        )
        for batch in options.batch
    }  # fmt: skip


if __name__ == "__main__":
    main()
