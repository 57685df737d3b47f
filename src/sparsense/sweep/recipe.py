"""What the file of a sweep may say: a base recipe, and which of its keys take which values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sparsense.errors import RecipeError
from sparsense.recipe.load import read_text
from sparsense.recipe.problems import recipe_error, show
from sparsense.recipe.section import Count, Name, Positive, Section
from sparsense.recipe.text import read_yaml, write_yaml

MOST_POINTS = 10_000


class Range(Section):
    """Numbers between two ends, both possible; for a random search."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Whether equal ratios, not equal differences, are equally likely."""
    whole: bool = False
    """Whether only whole numbers are drawn."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high; got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range with log: true must be above 0; got low: {self.low}")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"whole numbers need whole ends; got {self.low} and {self.high}")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]


class HalvingSection(Section):
    """Points that are worse than others of their kind end while they are fine-tuned; needs `sparsense[sweep]`.

    After `least` epochs, and each time that many times `factor`, only the best of those that came so far go on. They
    are compared by their accuracy on training samples. Name in `within` what makes points incomparable: at the same
    sparsity the better criterion goes on; without it, all that is small would end.
    """

    least: Count = 1
    """Epochs before the first comparison."""
    factor: Annotated[int, Field(ge=2)] = 3
    """One in so many goes on."""
    within: list[str] = Field(default=[])
    """Keys of the sweep; only points with the same values of these are compared."""


class SweepRecipe(Section):
    """A search over the keys of a recipe. Every point is a full run of the recipe with its own card."""

    name: Name
    """Of the sweep; its results go to `exported/NAME`."""
    base: str
    """The recipe that every point changes; a path from the folder of this file."""
    overrides: dict[str, Any] = Field(default={})
    """Dotted keys of the recipe that all points share."""
    search: Literal["grid", "random"] = "grid"
    """All combinations in the order of the file, or `points` of them drawn with `seed`."""
    keys: dict[str, Choices | Range] = Field(min_length=1)
    """Dotted key of the recipe -> list of values, or a range such as `{low: 1e-3, high: 0.1, log: true}`."""
    points: Count | None = None
    """How many points a random search draws."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the draws."""
    minutes: Positive | None = None
    """No point begins after so many minutes of computing, added up over all points and all starts of the sweep."""

    halving: HalvingSection | None = None
    """Hopeless points end early; null: every point runs to its end."""

    @model_validator(mode="after")
    def _compared_by_its_own_keys(self) -> SweepRecipe:
        if self.halving is not None and (strange := set(self.halving.within) - set(self.keys)):
            raise ValueError(f"halving.within: {min(strange)!r} is not among the keys")
        return self

    @model_validator(mode="after")
    def _searchable(self) -> SweepRecipe:
        if self.search == "random" and self.points is None:
            raise ValueError("points: a random search needs the number of points")
        if self.search == "grid" and self.points is not None:
            raise ValueError("points: a grid has as many points as there are combinations; use search: random")
        ranges = [key for key, values in self.keys.items() if isinstance(values, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(f"keys.{ranges[0]}: a range has no end of values; give a list, or use search: random")
        if twice := sorted(set(self.keys) & set(self.overrides)):
            raise ValueError(f"overrides: {twice[0]!r} is among the keys, too")
        return self

    def to_yaml(self) -> str:
        """The sweep with every default written out."""
        return write_yaml(self.model_dump())


def load_sweep(path: str | Path) -> SweepRecipe:
    """Read and check the file of a sweep; `base` comes back as a path from where the program runs.

    Raises:
        RecipeError: It says which file and key, what was found and what is allowed.
    """
    file = Path(path)
    fields = read_yaml(read_text(file), file=str(file))
    if not isinstance(fields, dict):
        raise RecipeError(
            f"a sweep is a mapping (key: value); the least it needs is name, base and keys; got {show(fields)}",
            file=str(file),
        )
    try:
        sweep = SweepRecipe.model_validate(fields)
    except ValidationError as error:
        raise recipe_error(error, SweepRecipe, file=str(file)) from error
    return sweep.model_copy(update={"base": str(file.parent / sweep.base)})
