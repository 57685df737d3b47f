"""Where datasets come from: a registry of named sources, all asked in the same way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparsense.data.classes import Classes, in_classes
from sparsense.data.dataset import Dataset
from sparsense.data.images import Size, resize
from sparsense.data.option_values import fits, in_words, kinds
from sparsense.errors import InputError, UnknownNameError
from sparsense.registry import Registry

Loader = Callable[..., Dataset]


@dataclass(frozen=True)
class Source:
    """A named origin of datasets: `SOURCES["digits"]("test", limit=100)`.

    Args:
        name: As in a recipe.
        splits: What `split` may be.
        load: `load(split, **options) -> Dataset`, options keyword-only. Options of `prepare` that it does
            not take itself are applied to what it returns.
    """

    name: str
    splits: tuple[str, ...]
    load: Loader

    @property
    def options(self) -> tuple[str, ...]:
        """The names of all options: its own first, then those of `prepare`."""
        return tuple(dict.fromkeys((*_keywords(self.load), *_keywords(prepare))))

    @property
    def default_split(self) -> str:
        """The only split, or `all`; empty where one must be chosen."""
        if len(self.splits) == 1:
            return self.splits[0]
        return "all" if "all" in self.splits else ""

    @property
    def summary(self) -> str:
        """The first line of the loader's docstring."""
        return (inspect.getdoc(self.load) or "").partition("\n")[0]

    def __call__(self, split: str = "", **options: Any) -> Dataset:
        """Load one split.

        Args:
            split: One of `splits`; may be left out when there is only one, or one called `all`.
            options: See `options`, `prepare` and the loader.

        Raises:
            UnknownNameError: No such split or option.
            InputError: A required option is missing, or the data is missing or unusable.
        """
        split = split or self.default_split
        if not split:
            raise InputError(f"data source {self.name!r} needs a split: {', '.join(self.splits)}")
        if split not in self.splits:
            raise UnknownNameError(f"split of data source {self.name!r}", split, self.splits)
        self._check_options(options)
        own = {name: value for name, value in options.items() if name in _keywords(self.load)}
        common = {name: value for name, value in options.items() if name not in own}
        return prepare(self.load(split, **own), **common)

    def _check_options(self, options: dict[str, Any]) -> None:
        for option in options:
            if option not in self.options:
                raise UnknownNameError(f"option of data source {self.name!r}", option, self.options)
        for parameter in inspect.signature(self.load).parameters.values():
            required = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
            if required and parameter.name not in options:
                raise InputError(f"data source {self.name!r} needs the option {parameter.name!r}")
        for option, problem in self.wrong_values(options).items():
            raise InputError(f"option {option!r} of data source {self.name!r}: {problem}")

    def wrong_values(self, options: Mapping[str, Any]) -> dict[str, str]:
        """What is wrong with values of options that are not of the kind that is declared, by option."""
        declared = {**kinds(prepare), **kinds(self.load)}
        known = {name: value for name, value in options.items() if name in self.options and name in declared}
        return {
            name: f"expected {in_words(declared[name])}; found {value!r}"
            for name, value in known.items()
            if name != "classes" and not fits(value, declared[name])  # which says by itself what it expects
        }


def prepare(
    dataset: Dataset,
    *,
    classes: Classes | None = None,
    limit: int | None = None,
    seed: int = 0,
    size: Size | None = None,
    channels: int | None = None,
) -> Dataset:
    """The options that every source has.

    Args:
        dataset: What the source loaded.
        classes: Only samples with these labels, such as `[0]` for the normal part of a labelled set, or of these names.
        limit: At most so many samples, drawn at random and kept in order.
        seed: Of that draw.
        size: Images of another size are resized to it: the side of a square, or (height, width).
        channels: 1 or 3: images are converted to grey or to RGB.
    """
    if classes is not None:
        dataset = dataset.subset(in_classes(dataset.labels, classes, dataset.class_names, dataset=dataset.name))
    if limit is not None:
        dataset = dataset.subset(limit, seed=seed)
    if size is not None or channels is not None:
        dataset = replace(dataset, inputs=resize(dataset.inputs, size, channels))
    return dataset


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


SOURCES: Registry[Source] = Registry("data source")


def source(name: str, *splits: str) -> Callable[[Loader], Loader]:
    """Register `load(split, **options) -> Dataset` under `name`; the options of `prepare` come for free."""

    def register(load: Loader) -> Loader:
        SOURCES.add(name, Source(name, splits, load))
        return load

    return register
