"""Where datasets come from: a registry of named sources, all asked in the same way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsense.data.dataset import Dataset
from sparsense.errors import InputError, UnknownNameError
from sparsense.registry import Registry

Loader = Callable[..., Dataset]


@dataclass(frozen=True)
class Source:
    """A named origin of datasets: `SOURCES["digits"]("test", limit=100)`.

    Args:
        name: As in a recipe.
        splits: What `split` may be; empty when the source has no splits.
        load: `load(split, **options) -> Dataset`; options are keyword-only.
    """

    name: str
    splits: tuple[str, ...]
    load: Loader

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options, `limit` and `seed` included."""
        keywords = (
            p.name for p in inspect.signature(self.load).parameters.values() if p.kind is p.KEYWORD_ONLY
        )
        return tuple(dict.fromkeys((*keywords, "limit", "seed")))

    @property
    def summary(self) -> str:
        """The first line of the loader's docstring."""
        return (inspect.getdoc(self.load) or "").partition("\n")[0]

    def __call__(
        self, split: str = "", *, limit: int | None = None, seed: int = 0, **options: Any
    ) -> Dataset:
        """Load one split.

        Args:
            split: One of `splits`; may be left out where there is at most one.
            limit: At most so many samples, drawn at random.
            seed: Of that draw, and of everything random in a generated source.
            options: See `options`.

        Raises:
            UnknownNameError: No such split or option.
            InputError: The data is missing or unusable.
        """
        split = split or (self.splits[0] if len(self.splits) == 1 else "")
        self._check(split, options)
        if "seed" in inspect.signature(self.load).parameters:
            options["seed"] = seed
        dataset = self.load(split, **options)
        return dataset if limit is None else dataset.subset(limit, seed=seed)

    def _check(self, split: str, options: dict[str, Any]) -> None:
        if split not in (self.splits or ("",)):
            if not self.splits:
                raise InputError(f"source {self.name!r} has no splits; got the split {split!r}")
            raise UnknownNameError(f"split of {self.name!r}", split, self.splits)
        for option in options:
            if option not in self.options:
                raise UnknownNameError(f"option of source {self.name!r}", option, self.options)


SOURCES: Registry[Source] = Registry("data source")


def source(name: str, *splits: str) -> Callable[[Loader], Loader]:
    """Register `load(split, **options) -> Dataset` under `name`; `limit` and `seed` come for free."""

    def register(load: Loader) -> Loader:
        SOURCES.add(name, Source(name, splits, load))
        return load

    return register
