"""One recipe from beginning to end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from sparsense.benchmark.card import AccuracyRow, Card, Detector, Networks, RecipeText, Trained
from sparsense.benchmark.explanation_file import Drawn, Key, write_explanations
from sparsense.benchmark.machine import this_machine, versions
from sparsense.benchmark.report import write_report
from sparsense.benchmark.score_file import ScoreKey, write_scores
from sparsense.data import Dataset
from sparsense.data.root import first_data_root
from sparsense.detector import Progress, silent, write_detector
from sparsense.files import check_replaceable, staged_folder
from sparsense.networks import save_network
from sparsense.networks.network import Network, behaviour
from sparsense.pipeline.data import RunData, load_data
from sparsense.pipeline.detectors import Variant, attach_heads, make_variant
from sparsense.pipeline.foreseeable import check_foreseeable
from sparsense.pipeline.job import Job
from sparsense.pipeline.measure import (
    accuracy_row,
    calibration_row,
    detector_row,
    latency_rows,
    layer_rows,
    outcome_row,
    parity_row,
    result_rows,
    size_of,
)
from sparsense.pipeline.precision import to_precision
from sparsense.pipeline.prune import Pruned, make_smaller
from sparsense.pipeline.records import Scorer, kept_record, pruned_record
from sparsense.pipeline.robust import robustness_rows
from sparsense.pipeline.shared import AFTER_PRUNING, pruning_state
from sparsense.pipeline.state import GOING_ON, State, kept_state, state_folder
from sparsense.pipeline.train import trained_first
from sparsense.pipeline.uses import unused_sets
from sparsense.recipe.schema import Recipe
from sparsense.recording.layers import network_sha256
from sparsense.sensitivity import SensitivityRecord
from sparsense.training.initial import open_network

STAYS = "the recipe up to fine-tuning, the code of the network and the samples that are learnt from"
Check = Callable[[Recipe, RunData, Network], object]


def run_recipe(recipe: Recipe, *, output: Path, data_root: str | None = None, progress: Progress = silent) -> Path:
    """Train where the recipe says so; prune, attach, calibrate, export, verify, measure, report.

    Args:
        recipe: What to do.
        output: Folder of the results. It is written beside itself and renamed at the end: a run that fails or is
            interrupted leaves an earlier result as it was. What a killed run has finished is kept beside it, too,
            and the same run goes on from there.
        data_root: Folder of the published data sets and networks.
        progress: Called with `(what, done, of)`.

    Returns:
        The folder: `detector.onnx`, `card.json`, `scores.npz`, `sensitivities.safetensors`, `network.safetensors`
        with `network.json`, `report.html`, `report.md`, the other detectors in `others/`.
    """
    check_replaceable(output)
    with (
        opened(recipe, output, data_root, progress, check=check_foreseeable) as (network, data, state, trained),
        staged_folder(output) as folder,  # put in its place before what is kept goes
    ):
        accuracy = [dense_accuracy(network, data, trained)]
        record = kept_record(network, recipe, data.train, progress, state)
        scorer = Scorer(recipe, data.train, record)
        with pruning_state(recipe, identity(recipe, data, network)[1:], state) as kept:
            job = Job(recipe, network, data.samples(), scorer, kept, progress)
            pruned = None if recipe.prune is None else prune_network(job, data.test, accuracy)
        record.save(folder / "sensitivities.safetensors")
        save_network(network if pruned is None else pruned.network, folder / "network.safetensors")

        variants = [make_variant("dense", network, recipe.export)]
        if pruned is not None:
            variants.append(make_variant("pruned", pruned.shipped, recipe.export))
        for variant in variants:
            attach_heads(variant, recipe, data, progress=progress)
        quantisation, rows = to_precision(variants[-1], recipe, data, progress)
        card = make_card(recipe, data, variants, accuracy, (record, pruned), progress)
        more = {"trained": trained, "quantisation": quantisation, "accuracy": [*card.accuracy, *rows]}
        _write(card.model_copy(update=more), variants, folder)
    return output


@contextmanager
def opened(
    recipe: Recipe, output: Path, data_root: str | None, progress: Progress, *, check: Check = lambda *_: None
) -> Iterator[tuple[Network, RunData, State, Trained | None]]:
    """The network, the data and the kept state of a job, and how the network was trained.

    Args:
        recipe: Of the job.
        output: Of the job; states lie beside it.
        data_root: Folder of the published data sets and networks.
        progress: Told about training, and about what an interrupted job has left.
        check: Refuses before anything is trained what would fail later.
    """
    torch.manual_seed(recipe.seed)
    data = load_data(recipe, data_root)
    root = first_data_root(data_root, recipe.data_root)
    network = open_network(recipe.network, root, recipe.export.layout, seed=recipe.seed).for_columns(data.train.columns)
    check(recipe, data, network)
    with (
        trained_first(network, recipe, data, output=output, progress=progress) as trained,
        kept_state(state_folder(output), *identity(recipe, data, network), output=output, stays=STAYS) as state,
    ):
        if state.begun:
            progress(GOING_ON, 1, 1)
        yield network, data, state, trained


def identity(recipe: Recipe, data: RunData, network: Network) -> tuple[str, ...]:
    """What the pieces of a job depend on: what its recipe says up to pruning, what is learnt from, its network."""
    text = recipe.model_dump_json(exclude={**AFTER_PRUNING, "data": True})
    facts = repr(network.preprocessing), behaviour(network), network_sha256(network.module)
    return text, *data.samples().facts(), *facts


def dense_accuracy(network: Network, data: RunData, trained: Trained | None) -> AccuracyRow:
    """How well the dense network does its task."""
    return accuracy_row("dense", "as loaded" if trained is None else "trained", network, data.test)


def prune_network(job: Job, test: Dataset, accuracy: list[AccuracyRow]) -> Pruned:
    """Prune as the recipe says; the accuracy after each stage goes to the end of the list."""

    def stage(name: str, smaller: Network) -> None:
        accuracy.append(accuracy_row("pruned", name, smaller, test))
        job.progress(f"pruning: {name}", 1, 1)

    return make_smaller(job, stage=stage)


def make_card(
    recipe: Recipe,
    data: RunData,
    variants: Sequence[Variant],
    accuracy: list[AccuracyRow],
    made: tuple[SensitivityRecord, Pruned | None],
    progress: Progress,
) -> Card:
    """Measure everything about the variants that the card says."""
    record, pruned = made
    for variant in variants:
        output = variant.outputs(data.test.inputs)
        accuracy.append(outcome_row(variant.name, "exported", variant.network, data.test, output))
    sizes = {variant.name: size_of(variant) for variant in variants}
    after = None if pruned is None else pruned_record(pruned.network, recipe, data.train, progress)
    text, unused = recipe.to_yaml(), dict(unused_sets(recipe))
    told = [f"Not used: data.{name}, since {reason}." for name, reason in unused.items()]
    return Card(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=recipe.seed,
        recipe=RecipeText(text=text, sha256=hashlib.sha256(text.encode()).hexdigest()),
        versions=versions(),
        machine=this_machine(),
        data=data.rows(unused),
        network=Networks(
            source=recipe.network.source,
            task=variants[0].network.task,
            dense=sizes["dense"],
            pruned=sizes.get("pruned"),
        ),
        pruning=None if pruned is None else pruned.row,
        detectors=_detectors(variants),
        accuracy=accuracy,
        layers=layer_rows(sizes["dense"], record, sizes.get("pruned"), after),
        calibration=[calibration_row(variant.name, d) for variant in variants for d in variant.detectors],
        parity=[parity_row(variant.name, d) for variant in variants for d in variant.detectors],
        results=result_rows(variants, seed=recipe.seed),
        explanations=[d.explanation[0] for v in variants for d in v.detectors if d.explanation is not None],
        notes=[*told, *([] if pruned is None else pruned.notes)],
        robustness=[]
        if recipe.robustness is None or not variants[0].detectors
        else robustness_rows(variants, recipe.robustness, data, seed=recipe.seed, progress=progress),
        latency=[]
        if recipe.benchmark is None
        else latency_rows(variants, recipe.benchmark, seed=recipe.seed, progress=progress),
    )


def _detectors(variants: Sequence[Variant]) -> list[Detector]:
    shipped = variants[-1].name
    return [
        detector_row(
            variant.name, attached, file_name(variant.name, attached.head, ship=variant.name == shipped and index == 0)
        )
        for variant in variants
        for index, attached in enumerate(variant.detectors)
    ]


def file_name(variant: str, head: str, *, ship: bool) -> str:
    """Where a detector lies in the run's folder: the one to ship on top, the others beside it."""
    return "detector.onnx" if ship else f"others/{variant}-{head}.onnx"


def _write(card: Card, variants: Sequence[Variant], folder: Path) -> None:
    """Detectors with the card inside, the card, the scores, the report."""
    attached = {(variant.name, d.head): d for variant in variants for d in variant.detectors}
    for row in card.detectors:
        detector = attached[row.variant, row.head]
        inside = {**detector.card, "name": card.name, "created": card.created, "run": card.model_dump(mode="json")}
        parity, stored, seen = detector.parity, detector.stored, detector.seen
        write_detector(detector.model, folder / row.file, card=inside, parity=parity, stored=stored, seen=seen)
    scores = {
        ScoreKey(variant.name, d.head, name): values
        for variant in variants
        for d in variant.detectors
        for name, values in d.scores.items()
    }
    write_scores(folder / "scores.npz", scores)
    drawn: dict[Key, Drawn] = {key: found.explanation[1] for key, found in attached.items() if found.explanation}
    if drawn:
        write_explanations(folder / "explanations.npz", drawn)
    card.save(folder / "card.json")
    write_report(folder)
