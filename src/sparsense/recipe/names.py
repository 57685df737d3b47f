"""Are the names in a recipe known? Asked before anything runs, of the registries that are installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from sparsense.errors import RecipeError, SparsenseError, UnknownNameError
from sparsense.recipe.robustness import RobustnessSection
from sparsense.recipe.schema import Recipe, SourceSection
from sparsense.recipe.training import ObjectiveSection, TrainingSection

Problem = tuple[str, SparsenseError | ValueError]


def check_names(recipe: Recipe, *, file: str = "") -> Recipe:
    """Check names and options of sources and heads; of criteria and networks where torch is installed.

    Returns:
        The same recipe.

    Raises:
        RecipeError: The first unknown name or option, with the nearest known ones.
    """
    for key, problem in _problems(recipe):
        raise RecipeError(str(problem), file=file, key=key) from problem
    return recipe


def _problems(recipe: Recipe) -> Iterator[Problem]:
    named = {"train": recipe.data.train, "calibration": recipe.data.calibration, "test": recipe.data.test}
    if recipe.data.outliers is not None:
        named["outliers"] = recipe.data.outliers
    if recipe.data.validation_anomalies is not None:
        named["validation_anomalies"] = recipe.data.validation_anomalies
    named |= {f"anomalies.{name}": source for name, source in recipe.data.anomalies.items()}
    for name, source in named.items():
        yield from _source(f"data.{name}", source)
    for index, head in enumerate(recipe.heads):
        yield from head_problems(f"heads.{index}", head.name, head.options)
    if recipe.robustness is not None:
        yield from _robustness(recipe.robustness)
    if find_spec("torch"):
        yield from _torch_half(recipe)


def _robustness(section: RobustnessSection) -> Iterator[Problem]:
    from sparsense.robustness.attacks import ATTACKS
    from sparsense.robustness.corruptions import CORRUPTIONS

    for index, attack in enumerate(section.attacks):
        if attack.name not in (known := [*ATTACKS, "hiding"]):
            yield f"robustness.attacks.{index}.name", UnknownNameError(ATTACKS.kind, attack.name, known)
    for index, name in enumerate(section.corruptions):
        if name not in CORRUPTIONS and section.corruptions != ["all"]:
            yield f"robustness.corruptions.{index}", UnknownNameError("corruption", name, [*CORRUPTIONS, "all"])


def _source(key: str, section: SourceSection) -> Iterator[Problem]:
    from sparsense.data import SOURCES

    if section.source not in SOURCES:
        yield f"{key}.source", UnknownNameError(SOURCES.kind, section.source, SOURCES)
        return
    source = SOURCES[section.source]
    split = section.split or source.default_split
    if split not in source.splits:
        yield f"{key}.split", UnknownNameError(f"split of {section.source!r}", split, source.splits)
    yield from _options(key, f"option of source {section.source!r}", section.options, source.options)
    for option, problem in source.wrong_values(section.options).items():
        yield f"{key}.options.{option}", ValueError(problem)
    for option in required(source.load):
        if option not in section.options:
            yield f"{key}.options.{option}", ValueError(f"source {section.source!r} needs this option")


def head_problems(key: str, name: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with a head's name or options; each with the key where it stands."""
    from sparsense.heads import HEADS

    if name not in HEADS:
        yield f"{key}.name", UnknownNameError(HEADS.kind, name, HEADS)
        return
    unknown = list(_options(key, f"option of head {name!r}", options, keywords(HEADS[name])))
    yield from unknown
    if not unknown:
        try:
            HEADS[name](**options)
        except ValueError as error:
            yield f"{key}.options", error


def _torch_half(recipe: Recipe) -> Iterator[Problem]:
    from sparsense.criteria import CRITERIA
    from sparsense.networks import NETWORKS
    from sparsense.recording.losses import LOSSES
    from sparsense.training.batches import AUGMENTATIONS

    if ":" not in recipe.network.source:  # package.module:function is looked up when it is loaded
        yield from _entry("network", "source", recipe.network.source, recipe.network.options, NETWORKS)
    if recipe.prune is not None:
        yield from _entry("prune", "criterion", recipe.prune.criterion, recipe.prune.options, CRITERIA)
    yield from _entry("sensitivity", "loss", recipe.sensitivity.loss, (), LOSSES)
    for key, section in _trainings(recipe).items():
        for index, name in enumerate(section.augment):
            yield from _entry(key, f"augment.{index}", name, (), AUGMENTATIONS)
    yield from objective_problems(recipe)


def _trainings(recipe: Recipe) -> dict[str, TrainingSection]:
    """The sections that train something, by their keys."""
    search = None if recipe.prune is None else recipe.prune.search
    sections = {"train": recipe.train, "finetune": recipe.finetune, "prune.search": search}
    return {key: section for key, section in sections.items() if section is not None}


def objective_problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with the objectives of a recipe, their options' values included; each with its key."""
    for key, section in _trainings(recipe).items():
        if section.objective is not None:
            yield from _objective(f"{key}.objective", section.objective, recipe)


def _objective(key: str, section: ObjectiveSection, recipe: Recipe) -> Iterator[Problem]:
    from sparsense.training.objectives import OBJECTIVES

    known = list(_entry(key, "name", section.name, section.options, OBJECTIVES))
    yield from known
    if not known:
        yield from _made(key, section)
    needs = () if known else getattr(OBJECTIVES[section.name], "needs", ())
    if "outliers" in needs and recipe.data.outliers is None:
        yield f"{key}.name", ValueError(f"objective {section.name!r} learns from outliers: name them in data.outliers")
    if "teacher" in needs and key == "train.objective":
        yield (
            f"{key}.name",
            ValueError(f"objective {section.name!r} learns from the dense network, so it is for finetune"),
        )


def _made(key: str, section: ObjectiveSection) -> Iterator[Problem]:
    """Whether the objective can be made; what only the run has is stood in for."""
    import torch

    from sparsense.data.preprocessing import Preprocessing
    from sparsense.training.objectives import Context, make_objective

    try:
        make_objective(section.name, section.options, Context(torch.nn.Identity(), Preprocessing(), torch.zeros(1, 1)))
    except SparsenseError as error:
        yield f"{key}.options", error


def _entry(section: str, key: str, name: str, options: Collection[str], registry: Any) -> Iterator[Problem]:
    if name not in registry:
        yield f"{section}.{key}", UnknownNameError(registry.kind, name, registry)
        return
    function = getattr(registry[name], "function", registry[name])  # a criterion wraps the function it is
    yield from _options(section, f"option of {registry.kind} {name!r}", options, keywords(function))


def _options(key: str, kind: str, options: Collection[str], known: Collection[str] | None) -> Iterator[Problem]:
    for option in options:
        if known is not None and option not in known:
            yield f"{key}.options.{option}", UnknownNameError(kind, option, known)


def keywords(function: Callable[..., object]) -> list[str] | None:
    """The names of the keyword arguments a function takes; None when it takes any.

    Example:
        >>> keywords(lambda weights, record, /, *, power=2: weights)
        ['power']
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def required(function: Callable[..., object]) -> list[str]:
    """The names of the keyword-only arguments without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
