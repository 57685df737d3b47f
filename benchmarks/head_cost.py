"""What every head costs over the plain forward pass: finished detectors, one thread, interleaved rounds.

python benchmarks/head_cost.py --data-root FOLDER [--network resnet20] [--heads energy 'knn k=10' ...] [--rounds 41]
    [--pruned FILE]

A detector is timed as it is shipped: preprocessing, network, head, p-value and decision, so many samples at once as its
card would say. The plain forward pass is the same preprocessing and network alone. Heads are fitted on real images, for
some graphs depend on what was learnt (a bank of neighbours has 5,000 rows). A few heads at a time run in turns with the
plain pass (`sparsense.benchmark.latency`); printed are the median of the rounds' ratios and its 95 % interval, the
number of nodes beyond the network's, and what the head adds to the file. `--clock thread` is for machines with other
work on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import onnx_ir as ir
from cards import save_card

from heads import head_of
from networks import NETWORKS, folder, known, load
from sparsense.benchmark import latency
from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.data import Dataset
from sparsense.detector import calibrated, fit_head
from sparsense.detector.micro_batch import micro_batch
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks import Network, load_checkpoint
from sparsense.to_onnx import export_forward

AIMS = {"knn": 1.15}
GRADIENT_FREE = 1.05
CALIBRATION, TOGETHER = 500, 4  # inputs for the threshold; heads that take turns with one plain pass
CLOCKS = {"wall": perf_counter, "thread": thread_time}
Array = np.ndarray
Call = Callable[[], object]


def main() -> None:
    options = arguments()
    use_clock(options.clock)
    root = folder(options.data_root)
    dense, images = load(options.network, root), known(options.network, root)[0]
    network = load_checkpoint(options.pruned) if options.pruned else dense
    graph, plain = forward(network), forward(dense)
    plain_model = with_outputs(plain.model, [plain.output])
    rows: list[dict[str, Any]] = []
    print(header(options))
    for names in chunks(options.heads or classifier_heads(), TOGETHER):
        models = {name: detector(name, graph, network, images, options) for name in names}
        found = race({"plain": plain_model, **models}, images.inputs, options)
        for name in names:
            rows.append(row(name, models[name], plain_model, found))
            print(line(rows[-1], options.batch), flush=True)
    save_card(options, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--pruned", help="checkpoint of a smaller network: heads on it, against the dense plain pass")
    parser.add_argument("--heads", nargs="*", help="'NAME OPTION=VALUE ...'; default: all for classifiers")
    parser.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--fit", type=int, default=600, help="training images to fit on")
    parser.add_argument("--bank", type=int, default=5000, help="the same for heads with a bank of inputs")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def use_clock(name: str) -> None:
    """`thread` counts the processor time of the one thread that runs, which other work on the machine leaves alone."""
    latency.perf_counter = CLOCKS[name]


def classifier_heads() -> list[str]:
    """Those without gradients first, so that neighbours in a race take about as long."""
    names = [name for name in HEADS if HEADS[name].task == "classifier"]
    return sorted(names, key=lambda name: HEADS[name].differentiates)


def forward(network: Network) -> ForwardGraph:
    return forward_graph(load_graph(export_forward(network)), network.preprocessing)


def chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def detector(
    name: str, graph: ForwardGraph, network: Network, images: Dataset, options: argparse.Namespace
) -> ir.Model:
    """The finished detector, as it would be written."""
    head = head_of(name)
    count = options.bank if hasattr(head, "bank") else options.fit
    scored = fit_head(graph, head, images.subset(count), preprocessing=network.preprocessing)
    held_out = images.subset(slice(len(images) - CALIBRATION, None))
    return calibrated(scored, scored.judge(held_out.inputs), 0.05)[0]


def race(models: dict[str, ir.Model], images: Array, options: argparse.Namespace) -> dict[int, dict[str, Latency]]:
    """Batch size -> name -> how long it took."""
    sessions = {name: in_slices(model) for name, model in models.items()}
    found = {}
    for batch in options.batch:
        calls: dict[str, Call] = {name: partial(run, images[:batch]) for name, run in sessions.items()}
        found[batch] = compare_latency(calls, rounds=options.rounds, baseline="plain")
    return found


def in_slices(model: ir.Model) -> Callable[[Array], object]:
    session, size = Session(model, threads=1), micro_batch(model)
    return lambda inputs: [session(inputs[start : start + size]) for start in range(0, len(inputs), size)]


def row(name: str, model: ir.Model, plain: ir.Model, found: dict[int, dict[str, Latency]]) -> dict[str, Any]:
    return {
        "head": name,
        "aim": None if head_of(name).differentiates else AIMS.get(name.split()[0], GRADIENT_FREE),
        "ratio": {batch: [taken[name].ratio, *taken[name].ratio_interval] for batch, taken in found.items()},
        "plain_ms": {batch: taken["plain"].median_ms for batch, taken in found.items()},
        "nodes": len(list(model.graph)) - len(list(plain.graph)),
        "extra_bytes": size_of(model) - size_of(plain),
    }


def size_of(model: ir.Model) -> int:
    return len(ir.to_proto(model).SerializeToString())


def header(options: argparse.Namespace) -> str:
    columns = ["head", "aim", *(f"batch {batch}" for batch in options.batch), "nodes", "extra kB"]
    return f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}"


def line(found: dict[str, Any], batches: Sequence[int]) -> str:
    ratios = ("{:.2f} [{:.2f}, {:.2f}]".format(*found["ratio"][batch]) for batch in batches)
    aim = "" if found["aim"] is None else f"{found['aim']:.2f}"
    cells = [found["head"], aim, *ratios, str(found["nodes"]), f"{found['extra_bytes'] / 1e3:.0f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
