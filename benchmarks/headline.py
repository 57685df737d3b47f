"""Can a pruned detector with the gradients of all weights run in the time of the dense network's plain forward pass?

python benchmarks/headline.py runs RUN [RUN ...] [--head sensnorm_profile]
    what a finished run has to say: accuracy, AUROC and time of its pruned detector against its dense network
python benchmarks/headline.py time NETWORK SHARE[/WIDTHS] [SHARE[/WIDTHS] ...] [--data-root FOLDER]
    time alone: so much of the multiply-adds removed, widths in such multiples; NETWORK is `digits` (the bundled one),
    `digits:64,128,256` (with these widths, not trained), or one of the published ones, such as mnist or resnet20

Times are the thread's own processor time, in interleaved rounds, over the plain forward pass of the dense network with
the same preprocessing: median and 95 % interval. Removed are channels of least magnitude. No set of anomalies takes
part in anything but the AUROC of `runs`, whose interval is a bootstrap over the inputs, the same for both detectors.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from head_cost import detector, forward, race, use_clock

from networks import folder, known
from networks import load as published
from sparsense.benchmark.card import load_card
from sparsense.benchmark.headline import final_accuracy
from sparsense.benchmark.latency import compare_latency
from sparsense.benchmark.metrics import auroc
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.benchmark.score_file import read_scores
from sparsense.data import SOURCES, Dataset
from sparsense.graph.run import with_outputs
from sparsense.networks import Network, load_network
from sparsense.networks.network import example_input
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.passes import saliency_of
from sparsense.sweep.finals import forward_of

DRAWS, FIT = 1000, 200
BATCHES = (1, 64)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    use_clock("thread")
    if options.what == "time":
        times(options)
        return
    print("| run | accuracy, dense -> pruned | mean AUROC, dense -> pruned | difference | time, batch 1 | batch 64 |")
    print("|---|---:|---:|---:|---:|---:|")
    for run in map(Path, options.runs):
        print(line(run, options.head, options.rounds), flush=True)


def arguments() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    runs, time = commands.add_parser("runs"), commands.add_parser("time")
    runs.add_argument("runs", nargs="+")
    time.add_argument("network")
    time.add_argument("shares", nargs="+")
    time.add_argument("--data-root", help="default: the environment variable SPARSENSE_DATA")
    for each in (runs, time):
        each.add_argument("--head", default="sensnorm_profile")
        each.add_argument("--rounds", type=int, default=21)
    return parser.parse_args()


# --- a finished run ---------------------------------------------------------------------------------------------------


def line(run: Path, head: str, rounds: int) -> str:
    card = load_card(run / "card.json")
    rows = [final_accuracy(card, variant) for variant in ("dense", "pruned")]
    before, after = areas(run, "dense", head), areas(run, "pruned", head)
    files = {row.variant: run / row.file for row in card.detectors if row.head == head}
    cells = [run.name, " -> ".join(f"{row.accuracy:.1%}" for row in rows if row is not None and row.accuracy)]
    cells += [f"{before[0]:.4f} -> {after[0]:.4f}", spread(after[0] - before[0], after[1:] - before[1:])]
    for batch in BATCHES:
        calls = {"plain": onnx_call(forward_of(files["dense"]), batch=batch, threads=1)}
        calls["pruned"] = onnx_call(files["pruned"], batch=batch, threads=1)
        cells.append(ratio(compare_latency(calls, rounds=rounds, baseline="plain")["pruned"]))
    return f"| {' | '.join(cells)} |"


def areas(run: Path, variant: str, head: str) -> np.ndarray:
    """The mean AUROC over all sets: of the scores, then of `DRAWS` draws of the inputs, alike for both variants."""
    scores = {key.dataset: value for key, value in read_scores(run / "scores.npz").items()
              if (key.variant, key.head) == (variant, head)}  # fmt: skip
    tests = {row.name for row in load_card(run / "card.json").data if row.role == "test"}
    usual, random = next(scores[name] for name in scores if name in tests), np.random.default_rng(0)
    sets = [value for name, value in scores.items() if name not in tests]
    found = [fmean(auroc(usual, one) for one in sets)]
    for _ in range(DRAWS):
        drawn = random.choice(len(usual), len(usual))
        found.append(fmean(auroc(usual[drawn], one[random.choice(len(one), len(one))]) for one in sets))
    return np.array(found)


def spread(value: float, draws: np.ndarray) -> str:
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def ratio(found: object) -> str:
    low, high = found.ratio_interval  # type: ignore[attr-defined]
    return f"{found.ratio:.2f} [{low:.2f}, {high:.2f}]"  # type: ignore[attr-defined]


# --- time alone -------------------------------------------------------------------------------------------------------


def times(options: Namespace) -> None:
    dense, images = load(options.network, options.data_root)
    graph = forward(dense)
    plain = with_outputs(graph.model, [graph.output])
    settings = Namespace(fit=FIT, bank=FIT, batch=list(BATCHES), rounds=options.rounds)
    print(f"| {options.network}, {options.head} | multiply-adds left | batch 1 | batch 64 |\n|---|---:|---:|---:|")
    for text in options.shares:
        share, _, widths = text.partition("/")
        network = smaller(dense, float(share), int(widths or 1))
        model = detector(options.head, forward(network), network, images, settings)
        found = race({"plain": plain, "it": model}, images.inputs, settings)
        left = measure_cost(network.module, example_input(network.input_shape)).multiply_adds
        print(f"| {text} | {left:,} | {' | '.join(ratio(found[batch]['it']) for batch in BATCHES)} |", flush=True)


def load(name: str, data_root: str | None) -> tuple[Network, Dataset]:
    kind, _, widths = name.partition(":")
    if kind != "digits":
        root = folder(data_root)
        return published(name, root), known(name, root)[0]
    torch.manual_seed(0)
    options = {"widths": [int(width) for width in widths.split(",")]} if widths else {}
    network = load_network("digits_resnet", weights=None if widths else "bundled", options=options)
    network.module.eval()
    return network, SOURCES["digits"]("train")


def smaller(dense: Network, share: float, round_to: int) -> Network:
    if not share:
        return dense
    options = ChannelOptions(measure="multiply_adds", round_to=round_to)
    example, saliency = example_input(dense.input_shape), saliency_of(dense.module, "magnitude")
    return replace(
        dense, module=prune_channels(dense.module, example, saliency, sparsity=share, options=options).module
    )


if __name__ == "__main__":
    main()
