"""How a recipe says what is removed, how much of it, and in which steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sparsense.recipe.section import BareName, Count, Number, Options, Positive, Section, Share
from sparsense.recipe.training import SearchSection

TARGETS = ("sparsity", "at_most", "speedup", "milliseconds", "ratios")
MEANT_FOR = {
    "channel": {
        "round_to": "is about widths",
        "align": "is about widths",
        "speedup": "needs a smaller network (zeros are computed like other numbers)",
        "milliseconds": "needs a smaller network (zeros are computed like other numbers)",
        "unsupported: keep": "is about layers that cannot be cut",
    },
    "weight": {
        "pattern": "is about single weights",
        "search": "is about single weights",
        "scope: erk": "shares out single weights",
        "scope: row": "shares out single weights",
    },
}
"""Structure -> key (or key and value) that makes sense with it alone, and why."""
WITHOUT = {
    "structure: head": ("measure", "ratios", "floor", "ignore", "scope: *"),
    "search": (
        "measure",
        "ratios",
        "floor",
        "pattern",
        "scope: block",
        "scope: row",
        "scope: erk",
        "scope: sensitivity",
    ),
    "pattern": ("measure", "ratios", "floor", "scope: *"),
    "ratios": ("floor", "scope: *"),
}
"""Key (or key and value) -> keys that would say nothing beside it."""
Pattern = Annotated[str, Field(pattern=r"^[1-9][0-9]*[:x][1-9][0-9]*$", max_length=20)]


class ScheduleSection(Section):
    """In which steps the target is reached; a bare name stands for itself with defaults."""

    name: Literal["one_shot", "linear", "iterative", "cubic", "cosine", "crop_it", "early_crop"] = "one_shot"
    """`one_shot`; `linear` (the same number in every step), `iterative` (the same share of what is left), `cubic`
    (much at first), `cosine`, `crop_it` (the distance to the target halves); `early_crop` trains the dense network
    until its weights slow down, at most `dense_epochs`, and goes on like `crop_it` (targets of at most 0.5 begin at
    0.25)."""
    # Published: crop_it with 7 steps, early_crop with 100 for weights and 1 for channels.
    steps: Count = 5
    """How many; `one_shot` has one. Saliencies are computed anew in each."""
    epochs: Number = 1
    """Of training after every step but the last one (which `finetune` follows), with the settings of `finetune`."""
    dense_epochs: Number = 0
    """Of training before the first step, with the settings of `finetune`."""
    rewind: bool = False
    """After every step, what is left goes back to the weights that the network was loaded with."""


class PruneSection(Section):
    """What is removed, by which criterion, and how much of it.

    Exactly one target: `sparsity`, `at_most`, `ratios`, or `speedup` and `milliseconds` (each or both).
    """

    structure: Literal["channel", "weight", "head"] = "channel"
    """`channel`: the network becomes smaller and faster; `weight`: single weights become 0, files become smaller;
    `head`: attention heads are removed."""
    criterion: str = "magnitude"
    """What is removed first; see `sparsense list criteria`."""
    options: Options = Field(default={})
    """Options of the criterion."""
    sparsity: Share | None = None
    """Share that is removed; 0.5 where no other target is given."""
    measure: Literal["parameters", "multiply_adds", "bytes"] | None = None
    """What `sparsity` is a share of; null: of the channels, weights or heads themselves. `bytes` are those of
    `network.safetensors`."""
    at_most: Count | None = None
    """So many parameters, multiply-adds or bytes may be left, as `measure` says."""
    speedup: Annotated[float, Field(gt=1)] | None = None
    """How many times as fast as the dense network, measured in ONNX Runtime, both in turns."""
    milliseconds: Positive | None = None
    """Median time of a forward pass in ONNX Runtime, on this machine. Batch and threads are those of `benchmark`."""
    ratios: dict[str, Share] = Field(default={})
    """Name pattern of layers -> share that is removed; layers that no pattern fits keep all they have."""
    scope: Literal["global", "layer", "block", "row", "erk", "sensitivity"] = "global"
    """What competes with each other: everything, the parts of a submodule (`block`), of a layer, of an output channel
    (`row`); `erk` shares weights out by layer shapes, `sensitivity` so that each layer alone costs the same loss."""
    floor: Share | None = None
    """Least share of every layer that stays; null: a tenth of the share that stays overall."""
    round_to: Count | None = None
    """Widths become multiples of it; null: as selected, but 8 where a time is asked for."""
    align: Literal["none", "pad", "measure", "each_group"] | None = None
    """To multiples of `round_to`, or of 8 and of 16, measured here. `pad`: the exported files get zero channels where
    that is faster; outputs stay the same (null: the same, for channels). `measure`: keep widths, pad them or round them
    down, whichever is fastest. `each_group` goes on from there group by group, which takes minutes."""
    pattern: Pattern | None = None
    """`N:M`, such as `2:4`: N of every M consecutive inputs stay; `RxC`, such as `4x4`: whole blocks of weights go."""
    permute: bool = False
    """For `N:M`: channels are put into another order first, one in which the pattern keeps more of what matters; the
    network computes the same."""
    compact: bool = False
    """At the end, channels that masks have emptied are removed; outputs stay the same. Worth it from 95 % on."""
    ignore: list[str] = Field(default=[])
    """Layers that keep their outputs: name patterns such as `layer1.*`, or types such as `Linear`."""
    unsupported: Literal["raise", "keep"] = "raise"
    """`keep` leaves alone what cannot be cut and lists it, instead of stopping."""
    schedule: Annotated[ScheduleSection, BareName] = ScheduleSection()
    """In which steps the target is reached."""
    search: SearchSection | None = None
    """Learn the mask instead of asking a criterion; the weights stay as they are."""

    @model_validator(mode="before")
    @classmethod
    def _half_by_default(cls, fields: Any) -> Any:
        fixed = isinstance(fields, dict) and isinstance(fields.get("pattern"), str) and ":" in fields["pattern"]
        if isinstance(fields, dict) and not fixed and not any(fields.get(key) for key in TARGETS):
            return {**fields, "sparsity": 0.5 if fields.get("sparsity") is None else fields["sparsity"]}
        return fields

    @model_validator(mode="after")
    def _keys_fit_together(self) -> PruneSection:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    @property
    def targets(self) -> list[str]:
        """The keys that say how much."""
        return [key for key in TARGETS if getattr(self, key) not in (None, {})]

    def _problems(self) -> Iterator[str]:
        yield from self._target_problems()
        yield from self._structure_problems()
        if self.structure == "weight" and self.floor is not None and self.scope not in ("global", "block"):
            yield f"floor has no effect together with scope: {self.scope} of weights; leave one of them out"
        several = self.schedule.name != "one_shot"
        for key, given in {
            "ratios": bool(self.ratios),
            "scope: sensitivity": self.scope == "sensitivity",
            "pattern": self.pattern is not None,
            "search": self.search is not None,
            "structure: head": self.structure == "head",
        }.items():
            if several and given:
                yield f"{key} is reached at once, so it goes with schedule: one_shot"
        if self.schedule.name == "early_crop" and not self.schedule.dense_epochs:
            yield "schedule early_crop needs dense_epochs: it prunes at the latest after so many epochs"

    def _target_problems(self) -> Iterator[str]:
        given = self.targets
        fixed = self.pattern is not None and ":" in self.pattern
        if self.permute and not fixed:
            yield "permute is for patterns N:M such as 2:4; leave it out"
        if fixed and given:
            yield f"pattern {self.pattern} says how much stays; leave out {given[0]}"
        if len(given) > 1 and set(given) != {"speedup", "milliseconds"}:
            yield f"{' and '.join(given)} are both targets; give one"
        if self.at_most is not None and self.measure is None:
            yield "at_most needs measure: parameters, multiply_adds or bytes"
        if self.measure is not None and not ({"sparsity", "at_most"} & set(given)):
            yield f"measure says what sparsity or at_most counts, and the target is {given[0] if given else 'pattern'}"

    def _structure_problems(self) -> Iterator[str]:
        if self.compact and self.structure != "weight":
            yield "compact removes channels that masks have emptied, so it goes with structure: weight; leave it out"
        for structure, words in MEANT_FOR.items():
            for key, why in words.items():
                name, _, value = key.partition(": ")
                given = getattr(self, name)
                if self.structure != structure and given not in (None, {}) and (not value or given == value):
                    yield f"{key} {why}, so it goes with structure: {structure}; leave it out"
        for feature, keys in WITHOUT.items():
            if self._asks(feature):
                for key in keys:
                    if self._asks(key):
                        yield f"{key.removesuffix(': *')} has no effect together with {feature}; leave one of them out"

    def _asks(self, key: str) -> bool:
        """Whether a key is given; `key: value` asks for that value, `key: *` for another one than the default."""
        name, _, value = key.partition(": ")
        given = getattr(self, name)
        if value == "*":
            return bool(given != type(self).model_fields[name].default)
        return given == value if value else given not in (None, {}, [])
