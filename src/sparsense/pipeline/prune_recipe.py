"""The network half of a run alone: prune, prove, save; or look at what could be pruned and how much it hurts."""

from __future__ import annotations

from pathlib import Path

from sparsense.data.root import first_data_root
from sparsense.detector import Progress, silent
from sparsense.errors import RecipeError
from sparsense.files import check_replaceable, staged_folder
from sparsense.graph.sparse_form import smaller_form
from sparsense.networks import save_network
from sparsense.networks.network import example_input
from sparsense.pipeline.analysis import analysed
from sparsense.pipeline.analysis_page import analysis_page
from sparsense.pipeline.detectors import make_variant
from sparsense.pipeline.job import Job
from sparsense.pipeline.records import Scorer, kept_record
from sparsense.pipeline.run import dense_accuracy, make_card, opened, prune_network
from sparsense.pruning.dry_run import DryRun, dry_run, dry_run_heads, dry_run_weights
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.schema import Recipe
from sparsense.training.initial import open_network


def prune_recipe(recipe: Recipe, *, output: Path, data_root: str | None = None, progress: Progress = silent) -> Path:
    """Prune, prove, fine-tune and save the network of a recipe, without detectors.

    Args:
        recipe: With a section `prune`.
        output: Folder of the results, written beside itself and renamed at the end. What a killed job has finished
            is kept beside it, and the same job goes on from there.
        data_root: Folder of the published data sets and networks.
        progress: Called with `(what, done, of)`.

    Returns:
        The folder: `network.safetensors` with `network.json`, `network.onnx`, `sensitivities.safetensors`, `card.json`.

    Raises:
        RecipeError: The recipe says that nothing is pruned.
    """
    _require_prune(recipe)
    check_replaceable(output)
    with (
        opened(recipe, output, data_root, progress) as (network, data, state, trained),
        staged_folder(output) as folder,
    ):
        accuracy = [dense_accuracy(network, data, trained)]
        record = kept_record(network, recipe, data.train, progress, state)
        scorer = Scorer(recipe, data.train, record)
        job = Job(recipe, network, data.samples(), scorer, state, progress)
        pruned = prune_network(job, data.test, accuracy)
        record.save(folder / "sensitivities.safetensors")
        save_network(pruned.network, folder / "network.safetensors")
        variants = [
            make_variant("dense", network, recipe.export),
            make_variant("pruned", pruned.shipped, recipe.export),
        ]
        some = {"input": network.preprocessing.arrange(data.train.subset(3).inputs)}
        content, note = smaller_form(variants[1].forward, some, "network.onnx")
        (folder / "network.onnx").write_bytes(content)
        card = make_card(recipe, data, variants, accuracy, (record, pruned), progress)
        more = {"trained": trained, "notes": [*card.notes, *filter(None, [note])]}
        card.model_copy(update=more).save(folder / "card.json")
    return output


def analyse_recipe(recipe: Recipe, *, output: Path, data_root: str | None = None, progress: Progress = silent) -> Path:
    """Find out how much every layer alone can lose; nothing is pruned.

    Args:
        recipe: Sections `prune` (structure, criterion, what is left alone) and `sensitivity`.
        output: Folder of the results; an interrupted analysis goes on.
        data_root: Folder of the published data sets and networks.
        progress: Called with `(what, done, of)`.

    Returns:
        The folder: `analysis.json`, which `sensitivity.analysis` takes, and `analysis.html`.
    """
    section = _require_prune(recipe)
    if section.structure == "head":
        raise RecipeError(
            "an analysis prunes channels or weights, layer by layer; heads have none", key="prune.structure"
        )
    check_replaceable(output, "analysis.json")
    with (
        opened(recipe, output, data_root, progress) as (network, data, state, _),
        staged_folder(output, mark="analysis.json") as folder,
    ):
        record = kept_record(network, recipe, data.train, progress, state)
        scorer = Scorer(recipe, data.train, record)
        analysis = analysed(Job(recipe, network, data.samples(), scorer, state, progress))
        analysis.save(folder / "analysis.json")
        (folder / "analysis.html").write_text(analysis_page(recipe.name, analysis), encoding="utf-8")
    return output


def preview_recipe(recipe: Recipe, *, data_root: str | None = None) -> DryRun:
    """What could be pruned of a recipe's network and what could not, and why; no data is read, nothing is written."""
    section = _require_prune(recipe)
    network = open_network(recipe.network, first_data_root(data_root, recipe.data_root), recipe.export.layout)
    example = example_input(network.input_shape)
    if section.structure == "weight":
        return dry_run_weights(network.module, example, ignore=section.ignore)
    if section.structure == "head":
        return dry_run_heads(network.module, example)
    return dry_run(network.module, example, ignore=section.ignore)


def _require_prune(recipe: Recipe) -> PruneSection:
    if recipe.prune is None:
        raise RecipeError("there is nothing to prune: the section is null", key="prune")
    return recipe.prune
