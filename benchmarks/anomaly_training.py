"""Anomaly training: every method against its own baseline, on every kind of data, over seeds.

python benchmarks/anomaly_training.py                                       # digits, nothing to download
python benchmarks/anomaly_training.py --rows mnist tabular --data-root FOLDER --out results.jsonl
python benchmarks/anomaly_training.py --rows fashion cifar10 industrial sound series ood --data-root FOLDER
python benchmarks/anomaly_training.py --show results.jsonl [more.jsonl] [--images docs/images]   # tables of them

Every number goes to --out as soon as it is there; the same command goes on where it was. Trained on normal samples
alone (`ood`: and on auxiliary outliers), the weights are those of the last epoch. What was chosen by looking at results
was chosen on four tables (`DEVELOPMENT` in cases.py) and on ResNet-8, none of which is measured here.

The default is sized for one core of a CPU: at most --train samples, --epochs passes (--latent-steps for latent-norm
networks of images), small networks with the same objectives. --full is the published length on all samples, with the
published networks (GradCon 1000 epochs, latent norm 2000 batches and beta per data set): hours per class on a CPU.
CIFAR-10 is not contrast-normalised, as it is in the latent-norm publication.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from anomaly_rows import ood
from anomaly_rows.cases import DEVELOPMENT, Case, Size, cases
from anomaly_rows.measure import Length, measured
from anomaly_rows.methods import PUBLISHED, PUBLISHED_FPR95, methods
from anomaly_rows.outside import outside
from anomaly_rows.tables import by_case, collected, over_rows, summary

from sparsense.benchmark.machine import this_machine, versions

Identity = tuple[str, str, int]
SHOWN = ("epochs", "steps", "latent_steps", "batch_size", "precision", "train", "test", "side", "full", "validation")
KNOWN = ("digits", "mnist", "fashion", "cifar10", "tabular", "industrial", "sound", "series", "ood")


def main() -> None:
    options = arguments()
    if options.show is None:
        torch.set_num_threads(options.threads)
        warnings.filterwarnings("ignore", module="pyod")
        measure(options)
    entries = [entry for path in options.show or [options.out] for entry in read(Path(path))]
    rows = {row: [entry for entry in entries if entry["row"] == row] for row in {e["row"]: None for e in entries}}
    for row, own in rows.items():
        print_row(row, own)
        if options.images is not None:
            from anomaly_rows.plots import draw  # needs matplotlib

            draw(row, collected(own), Path(options.images), suffix=options.suffix)
    if len(rows) > 1:
        print("\n### several rows\n")
        print(
            *over_rows({row: collected(own) for row, own in rows.items()}, {row: against(row) for row in rows}),
            sep="\n",
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["digits"], choices=KNOWN, help="of the table")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)), help="of image sets")
    parser.add_argument("--cases", nargs="+", help="only these, such as names of tables")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400, help="at least so many, for small sets")
    parser.add_argument("--latent-steps", type=int, default=500, help="of the latent-norm networks for images")
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="of training, not of scores")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "cuda", "mps", "auto"), help="of training")
    parser.add_argument("--validation", type=float, default=0.0,
                        help="share of GradCon's images that chooses its epoch; 0.1 is published")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train", type=int, default=2000, help="at most so many training samples")
    parser.add_argument("--test", type=int, default=1000, help="at most so many test samples per side")
    parser.add_argument("--side", type=int, default=64, help="images of defects are brought to it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="published networks and lengths, all samples")
    parser.add_argument("--out", default="anomaly_training.jsonl", help="JSON lines")
    parser.add_argument("--show", nargs="+", help="print the tables of such files, measure nothing")
    parser.add_argument("--images", help="folder for a picture of every table, anomaly_ROW.svg")
    parser.add_argument("--suffix", default="", help="of the pictures' names, after the row")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    """Append what is not there yet, a line per case and seed."""
    out = Path(options.out)
    before = mended(out)
    check_alike(before, options)
    done = {identity(entry) for entry in before}
    about = {"arguments": vars(options), "machine": this_machine().model_dump(), "versions": versions()}
    with out.open("a", encoding="utf-8") as stream:
        for row in options.rows:
            for entry in fine_tuned(options, done) if row == "ood" else one_class(row, options, done):
                stream.write(json.dumps({**entry, **about}) + "\n")
                stream.flush()
                print(*identity(entry), {name: round(value, 1) for name, value in entry["values"].items()}, flush=True)


def one_class(row: str, options: argparse.Namespace, done: set[Identity]) -> Iterator[dict[str, Any]]:
    """An entry per case and seed."""
    for seed in options.seeds:
        for case in chosen(row, options):
            if (case.row, case.name, seed) in done:
                continue
            started = perf_counter()
            entry = {"row": case.row, "case": case.name, "seed": seed, "values": dict(solved(case, seed, options))}
            yield entry | {"seconds": round(perf_counter() - started, 1), "count": [len(case.train), len(case.test)]}


def fine_tuned(options: argparse.Namespace, done: set[Identity]) -> Iterator[dict[str, Any]]:
    """An entry per network, set of anomalies and seed; besides AUROC also FPR95 and accuracy."""
    for case, network in ood.cases(options):
        for seed in options.seeds:
            left = [name for name in ood.SETS if ("ood", f"{case}, {name}", seed) not in done]
            if not left or (options.cases is not None and case not in options.cases):
                continue
            started = perf_counter()
            found = dict(ood.solved(network, seed, options))
            seconds = round((perf_counter() - started) / len(left), 1)
            for name in left:
                values = {key: judged.auroc[name] for key, judged in found.items()}
                others = {"fpr95": {key: judged.fpr95[name] for key, judged in found.items()},
                          "accuracy": {key: judged.accuracy for key, judged in found.items()}}  # fmt: skip
                entry = {"row": "ood", "case": f"{case}, {name}", "seed": seed, "values": values}
                yield entry | others | {"seconds": seconds, "count": [options.train, options.test]}


def chosen(row: str, options: argparse.Namespace) -> Iterator[Case]:
    """The cases of a row; `sound` comes with the industrial ones."""
    if options.full:
        size = Size(tuple(options.classes), None, None, 128, everything=True)
    else:
        size = Size(tuple(options.classes), options.train, options.test, options.side)
    source = "industrial" if row == "sound" else row
    for case in cases(source, size, options.data_root):
        asked = case.name not in DEVELOPMENT if options.cases is None else case.name in options.cases
        if case.row == row and asked:
            yield case


def solved(case: Case, seed: int, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Every method's AUROC; on tables also those of PyOD."""
    found = methods(case.row, columns=case.train.inputs[0].size)
    asked = {name: method for name, method in found.items() if options.methods is None or name in options.methods}
    length = Length(
        options.epochs, options.steps, options.batch_size, options.latent_steps, options.precision, options.full,
        options.accelerator, options.validation,
    )  # fmt: skip
    yield from measured(case, asked, length, seed)
    if case.row == "tabular" and options.methods is None:
        yield from outside(case, seed)


def identity(entry: dict[str, Any]) -> Identity:
    return entry["row"], entry["case"], entry["seed"]


def read(path: Path) -> list[dict[str, Any]]:
    """All entries but a last one that was not written to its end, which is measured again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def mended(path: Path) -> list[dict[str, Any]]:
    """What is there already; a last line that was not written to its end goes."""
    if not path.exists():
        return []
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return read(path)


def check_alike(entries: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Lines of other lengths or methods are not taken for what is asked now."""
    for entry in entries:
        if entry["row"] not in options.rows:
            continue
        there, here = entry["arguments"], vars(options)
        if others := [name for name in (*SHOWN, "methods") if name in there and there[name] != here[name]]:
            raise SystemExit(
                f"{options.out} has lines of row {entry['row']} of another run: "
                + ", ".join(f"{name} {there[name]}, here {here[name]}" for name in others)
                + "; name another file with --out"
            )


def print_row(row: str, entries: list[dict[str, Any]]) -> None:
    first, values = entries[0], collected(entries)
    asked = {key: first["arguments"][key] for key in SHOWN if key in first["arguments"]}
    print(f"\n### {row}: {len(values)} cases, {asked}\n")
    baselines = against(row)
    published = {name: value for (known, name), value in PUBLISHED.items() if known == row}
    crossed = row == "ood"  # every network with every set of anomalies
    print(*summary(values, baselines, published, crossed=crossed), "", *by_case(values), sep="\n")
    if row == "ood":
        rates = summary(collected(entries, "fpr95"), baselines, PUBLISHED_FPR95, metric="FPR95", crossed=crossed)
        print("", *rates, sep="\n")
        print("", *summary(collected(entries, "accuracy"), {}, {}, metric="accuracy"), sep="\n")
    print(f"\n{sum(entry['seconds'] for entry in entries):.0f} s in all; {first['machine']['cpu']}")


def against(row: str) -> dict[str, str | None]:
    """The baseline of every method of a row."""
    return dict(ood.BASELINES) if row == "ood" else {name: method.baseline for name, method in methods(row).items()}


if __name__ == "__main__":
    main()
