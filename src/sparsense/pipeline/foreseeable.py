"""What would fail after the training of a run, and can be known before it, is refused before it."""

from __future__ import annotations

from sparsense.calibrate import check_enough, samples_needed
from sparsense.data import Dataset
from sparsense.detector import check_head
from sparsense.detector.grouped import groups_named
from sparsense.errors import CalibrationError, RecipeError
from sparsense.extras import need
from sparsense.heads import HEADS
from sparsense.networks.network import Network, check_forward, example_input
from sparsense.pipeline.cuts import Asked, Cut, channel_options, cut, least_units
from sparsense.pipeline.data import RunData
from sparsense.pipeline.precision import check_precision
from sparsense.pipeline.tried_heads import check_heads
from sparsense.pipeline.uses import trainings
from sparsense.pruning.channels import tried_groups
from sparsense.recipe.names import objective_problems
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.schema import CalibrateSection, Recipe
from sparsense.recording.losses import LOSSES
from sparsense.recording.passes import saliency_of
from sparsense.training.engine import make_engine
from sparsense.training.suitable import check_suitable


def check_foreseeable(recipe: Recipe, data: RunData, network: Network) -> None:
    """Refuse a run that cannot end well, before its first step.

    Args:
        recipe: Of the run.
        data: All of its sets.
        network: Before its training.

    Raises:
        RecipeError: An option of an objective or a head cannot be.
        TrainingError: An objective or the labels do not suit the network, or there is no such accelerator.
        InputError: A head, the loss of the sensitivities or the precision does not suit the network or the labels.
        CalibrationError: Too few calibration samples for the asked rate.
        UnsupportedLayerError: A layer cannot be cut, and would be after a training.
        GraphError: A head finds no layer of the network, or cannot differentiate one.
        MissingExtraError: The report cannot be written.
    """
    for key, problem in objective_problems(recipe):
        raise RecipeError(str(problem), key=key) from problem
    for training in trainings(recipe):
        check_suitable(network, data.train, training)
        make_engine(accelerator=training.accelerator)  # is there such a one?
    for section in recipe.heads:
        check_head(HEADS[section.name](**section.options), network.task, data.train)
    LOSSES[recipe.sensitivity.loss](check_forward(network), example_input(network.input_shape), None)
    if recipe.train is not None and recipe.prune is not None and recipe.prune.structure == "channel":
        _check_cuts(recipe.prune, network)
    _check_calibration(recipe.calibrate, data.calibration, network, group=max(head.group for head in recipe.heads))
    check_precision(recipe, network, data.calibration)
    for module in ("jinja2", "plotly.offline"):
        need(module, doing="writing a report", extra="report")
    if trainings(recipe):
        check_heads(recipe, data, network)


def _check_cuts(section: PruneSection, network: Network) -> None:
    """Channels are tried group by group; shares by `ratios` may leave the groups alone that cannot be cut.

    How much can go does not depend on what a training will have found salient.
    """
    if section.ratios:
        return
    tried_groups(network.module, example_input(network.input_shape), channel_options(section))
    if section.sparsity is not None and section.scope != "sensitivity":
        asked = Asked(section, least_units(network, section, section.sparsity))
        cut(Cut(network), saliency_of(network.module, "magnitude"), asked, section.sparsity)


def _check_calibration(section: CalibrateSection, held_out: Dataset, network: Network, *, group: int) -> None:
    rate = section.false_alarm_rate
    with groups_named(group):
        check_enough(len(held_out) // group, rate)
    if section.per_class != "strict" or network.task != "classifier":
        return
    each, classes = samples_needed(rate), check_forward(network).shape[1]
    if len(held_out) < (needed := each * classes):
        raise CalibrationError(
            f"calibrating class by class: a false-alarm rate of {rate} needs at least {each} samples of each of "
            f"{classes} predicted classes; got {len(held_out)} in all: give more, allow a higher rate, or let classes "
            "share the threshold of all samples (per class: pool)",
            needed=needed,
        )
