from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import RecipeError
from sparsense.recipe import Recipe, load_recipe, parse_override
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import keywords, required
from sparsense.recipe.text import read_yaml, write_yaml

LEAST = """
name: q
network: {source: digits_resnet}
data:
  train: {source: digits, split: train}
  calibration: {source: digits, split: calibration}
  test: {source: digits, split: test}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return folder / "r.yaml"


def refused(text: str, overrides: dict[str, Any] | None = None) -> RecipeError:
    with pytest.raises(RecipeError) as error:
        read_recipe(text, overrides, file="r.yaml")
    return error.value


# What a recipe says


def test_name_network_and_data_are_enough() -> None:
    recipe = read_recipe(LEAST)
    assert recipe.prune is not None
    assert recipe.prune.sparsity == 0.5
    assert [head.name for head in recipe.heads] == ["fusion"]
    assert recipe.calibrate.false_alarm_rate == 0.05
    assert recipe.train is None


def test_null_leaves_a_step_out() -> None:
    recipe = read_recipe(LEAST + "prune: null\nbatch_norm: null\nfinetune: null\nbenchmark: null\n")
    assert (recipe.prune, recipe.batch_norm, recipe.finetune, recipe.benchmark) == (None, None, None, None)


def test_a_bare_head_is_a_name() -> None:
    heads = read_recipe(LEAST + "heads: [energy, {name: sensnorm, options: {p: 5}}]").heads
    assert [(head.name, head.options) for head in heads] == [("energy", {}), ("sensnorm", {"p": 5})]


def test_preprocessing_becomes_the_class_that_networks_use() -> None:
    text = LEAST.replace("digits_resnet}", "x, preprocessing: {mean: [0.5], std: [0.25], layout: NCHW}}")
    section = read_recipe(text).network.preprocessing
    assert section is not None
    assert section.build() == Preprocessing(layout="NCHW", mean=(0.5,), std=(0.25,))


def test_overrides_are_not_changed_by_later_ones() -> None:
    overrides = {"prune": {"sparsity": 0.5}, "prune.sparsity": 0.7}
    recipe = read_recipe(LEAST, overrides)
    assert recipe.prune is not None
    assert recipe.prune.sparsity == 0.7
    assert overrides["prune"] == {"sparsity": 0.5}


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_survive_a_round_trip(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    recipe = read_recipe(text)
    assert recipe.name.replace("_", "-") == path.stem
    assert read_recipe(recipe.to_yaml()) == recipe
    asked = re.findall(r"recipes/([\w-]+)\.yaml", text)
    assert not asked or path.stem in asked  # the command above it


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    sparsity=st.floats(0, 1, exclude_max=True),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    options=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())),
)
def test_any_recipe_survives_a_round_trip(seed: int, sparsity: float, rate: float, options: dict[str, Any]) -> None:
    overrides = {"seed": seed, "prune.sparsity": sparsity, "calibrate.false_alarm_rate": rate}
    recipe = read_recipe(LEAST, overrides | {"network.options": options})
    assert read_recipe(recipe.to_yaml()) == recipe


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_recipe(LEAST).seed = 3  # type: ignore[misc]


# Overrides


def test_overrides_reach_sections_lists_and_null() -> None:
    text = LEAST + "prune: null\nheads: [{name: sensnorm}]\n"
    overrides = {"prune.sparsity": 0.7, "heads.0.options.p": 2, "seed": 3, "finetune": None}
    recipe = read_recipe(text, overrides)
    assert recipe.prune is not None
    assert (recipe.prune.sparsity, recipe.heads[0].options, recipe.seed) == (0.7, {"p": 2}, 3)
    assert recipe.finetune is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=1", ("seed", 1)),
        ("prune=null", ("prune", None)),
        ("finetune.learning_rate=1e-3", ("finetune.learning_rate", 0.001)),
        ("network.weights=a=b.safetensors", ("network.weights", "a=b.safetensors")),
        ("benchmark.batch_sizes=[1, 8]", ("benchmark.batch_sizes", [1, 8])),
        ("data_root=", ("data_root", None)),
    ],
)
def test_the_value_of_an_override_is_yaml(text: str, expected: object) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", ""])
def test_an_override_that_is_no_assignment(text: str) -> None:
    with pytest.raises(RecipeError, match=r"expected key=value with a dotted key, such as prune.sparsity=0.7; got "):
        parse_override(text)


def test_an_override_of_what_is_not_there() -> None:
    assert str(refused(LEAST + "heads: [energy]", {"heads.1.name": "msp"})) == (
        """r.yaml: heads: has no '1' to override; it is ["energy"]"""
    )
    assert "r.yaml: seed: has no 'x' to override; it is 0" in str(refused(LEAST + "seed: 0", {"seed.x": 1}))


# Refusals, word by word

PRUNE_KEYS = (
    "structure, criterion, options, sparsity, measure, at_most, speedup, milliseconds, ratios, scope, floor, round_to, "
    "align, pattern, permute, compact, ignore, unsupported, schedule, search"
)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("prune: {sparsty: 0.5}", "prune.sparsty", f"unknown key. Did you mean 'sparsity'? (known: {PRUNE_KEYS})"),
        ("prune: {sparsity: 50}", "prune.sparsity", "must be at least 0 and less than 1; got 50 (write 0.5 for 50 %)"),
        ("prune: {sparsity: -0.1}", "prune.sparsity", "must be at least 0 and less than 1; got -0.1"),
        ("fit: {samples: 0}", "fit.samples", "must be at least 1; got 0"),
        ("calibrate: {false_alarm_rate: 1}", "calibrate.false_alarm_rate",
         "must be more than 0 and less than 1; got 1"),
        ("prune: {round_to: 0}", "prune.round_to", "must be at least 1; got 0"),
        ("prune: {scope: globl}", "prune.scope",
         ("""must be one of "global", "layer", "block", "row", "erk", "sensitivity"; got "globl". """
          "Did you mean 'global'?")),
        ("export: {opset: 17}", "export.opset", "must be at least 18; got 17"),
        ("seed: '1'", "seed", 'must be a whole number; got "1"'),
        ("seed: true", "seed", "must be a whole number; got true"),
        ("fit: {samples: 2.5}", "fit.samples", "must be a whole number; got 2.5"),
        ("finetune: {weight_decay: small}", "finetune.weight_decay", 'must be a number; got "small"'),
        ("finetune: {learning_rate: 1e999}", "finetune.learning_rate", "must be a finite number; got Infinity"),
        ("calibrate: null", "calibrate", "must be a mapping (key: value); got null"),
        ("heads: energy", "heads", 'must be a list; got "energy"'),
        ("heads: []", "heads", "must not be empty"),
        ("heads: [{name: a, p: 5}]", "heads.0.p", "unknown key (known: name, options, explain, detail, group)"),
        ("heads: [3]", "heads.0", "must be a mapping (key: value); got 3"),
        ("benchmark: {batch_sizes: [1, 0]}", "benchmark.batch_sizes.1", "must be at least 1; got 0"),
        ("prune: {structure: weight, round_to: 8}", "prune",
         "round_to is about widths, so it goes with structure: channel; leave it out"),
        ("prune: {scope: erk}", "prune",
         "scope: erk shares out single weights, so it goes with structure: weight; leave it out"),
        ("prune: {structure: weight, speedup: 2.0}", "prune",
         ("speedup needs a smaller network (zeros are computed like other numbers), so it goes with "
          "structure: channel; leave it out")),
        ("prune: {sparsity: 0.5, speedup: 2.0}", "prune", "sparsity and speedup are both targets; give one"),
        ("prune: {speedup: 0.5}", "prune.speedup", "must be more than 1; got 0.5"),
        ("prune: {at_most: 1000}", "prune", "at_most needs measure: parameters, multiply_adds or bytes"),
        ("prune: {milliseconds: 1.0, measure: bytes}", "prune",
         "measure says what sparsity or at_most counts, and the target is milliseconds"),
        ("prune: {structure: weight, pattern: '2:4', sparsity: 0.5}", "prune",
         "pattern 2:4 says how much stays; leave out sparsity"),
        ("prune: {pattern: '2:4'}", "prune",
         "pattern is about single weights, so it goes with structure: weight; leave it out"),
        ("prune: {structure: weight, pattern: '2/4'}", "prune.pattern", "must look like 2:4 or 4x4; got \"2/4\""),
        ("prune: {ratios: {'*': 0.5}, scope: layer}", "prune",
         "scope has no effect together with ratios; leave one of them out"),
        ("prune: {structure: weight, pattern: '4x4', measure: bytes}", "prune",
         "measure has no effect together with pattern; leave one of them out"),
        ("prune: {structure: weight, search: {}, scope: erk}", "prune",
         "scope: erk has no effect together with search; leave one of them out"),
        ("prune: {structure: weight, search: {}, floor: 0.1}", "prune",
         "floor has no effect together with search; leave one of them out"),
        ("prune: {structure: head, ignore: [a]}", "prune",
         "ignore has no effect together with structure: head; leave one of them out"),
        ("prune: {structure: weight, scope: erk, floor: 0.1}", "prune",
         "floor has no effect together with scope: erk of weights; leave one of them out"),
        ("prune: {structure: weight, unsupported: keep}", "prune",
         "unsupported: keep is about layers that cannot be cut, so it goes with structure: channel; leave it out"),
        ("prune: {ratios: {'*': 0.5}, schedule: cubic}", "prune",
         "ratios is reached at once, so it goes with schedule: one_shot"),
        ("prune: {schedule: early_crop}", "prune",
         "schedule early_crop needs dense_epochs: it prunes at the latest after so many epochs"),
        ("prune: {schedule: cubik}", "prune.schedule.name",
         ("""must be one of "one_shot", "linear", "iterative", "cubic", "cosine", "crop_it", "early_crop"; """
          """got "cubik". Did you mean 'cubic'?""")),
        ("prune: {structure: head, measure: bytes}", "prune",
         "measure has no effect together with structure: head; leave one of them out"),
        ("prune: {schedule: cubic}\nfinetune: null", "",
         ("prune.schedule: trains with the settings of finetune, which is null; give finetune, or set epochs and "
          "dense_epochs to 0")),
        ("heads: [a, b, a]", "", "heads: 'a' is listed twice; every head is written to a file of its name"),
    ],
)  # fmt: skip
def test_a_value_that_is_refused(text: str, key: str, message: str) -> None:
    error = refused(LEAST + text)
    assert (error.file, error.key) == ("r.yaml", key)
    assert str(error) == ": ".join(part for part in ("r.yaml", key, message) if part)


def test_every_problem_is_told_at_once() -> None:
    assert str(refused("name: a/b\nnetwork: {sorce: x}\n")) == (
        "r.yaml: name: must be letters, digits, '_' and '-', and start with a letter or digit; got \"a/b\"\n"
        "  also network.source: this key is required and missing\n"
        "  also network.sorce: unknown key. Did you mean 'source'?"
        " (known: source, weights, options, preprocessing, input_shape, task)\n"
        "  also data: this key is required and missing"
    )


@pytest.mark.parametrize(("one", "other"), [("calibration", "train"), ("calibration", "test"), ("train", "test")])
def test_sets_that_must_be_disjoint(one: str, other: str) -> None:
    same = {f"data.{one}.split": "x", f"data.{other}.split": "x"}
    assert str(refused(LEAST, same)) == f"r.yaml: data: {one} and {other} are the same samples; give each its own split"


@pytest.mark.parametrize("name", ["..", "a/b", "a b", "", "-a", "a\n", "é"])
def test_a_name_that_is_no_folder_name(name: str) -> None:
    assert refused(LEAST, {"name": name}).key == "name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty; the least it needs is name, network and data"),
        ("# nothing\n", "the recipe is empty; the least it needs is name, network and data"),
        ("- a\n- b\n", 'a recipe is a mapping (key: value); got ["a", "b"]'),
        ("just text", 'a recipe is a mapping (key: value); got "just text"'),
        ("name: x\nname: y\n", "not valid YAML: line 2, column 1: key 'name' is given twice"),
        ("a: {b: 1, b: 2}", "not valid YAML: line 1, column 11: key 'b' is given twice"),
        ("a: &x 1\nb: *x\n", "not valid YAML: line 2, column 4: alias *x: write the value out"),
        ("1: x", "not valid YAML: line 1, column 1: key '1' is not text"),
        ("a: [1,", "not valid YAML: line 1, column 7: expected the node content, but found '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "not valid YAML: line 2, column 1: but found another document"),
        ("[" * 2_000, "not a recipe: nested too deeply"),
        ("x" * 2_000_000, "2,000,000 characters are no recipe; the limit is 1,048,576"),
    ],
)
def test_a_text_that_is_no_recipe(text: str, message: str) -> None:
    assert str(refused(text)) == f"r.yaml: {message}"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!mine 1"])
def test_tags_run_nothing(tag: str) -> None:
    assert "could not determine a constructor for the tag" in str(refused(f"a: {tag}"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: there is no such file$"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match=r"r\.yaml: not a text in UTF-8"):
        load_recipe(tmp_path / "r.yaml")


# Names of registered things


def test_a_recipe_with_known_names_is_loaded(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, LEAST + "heads: [energy]"), {"prune": None}) == read_recipe(
        LEAST + "heads: [energy]\nprune: null"
    )


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        ({"data.test.source": "digit"}, "data.test.source", "unknown data source 'digit'. Did you mean 'digits'"),
        ({"data.test.split": "tset"}, "data.test.split", "unknown split of 'digits' 'tset'. Did you mean 'test'?"),
        ({"data.train.options": {"x": 1}}, "data.train.options.x", "unknown option of source 'digits' 'x'"),
        ({"data.train.source": "image_folder"}, "data.train.options.path", "source 'image_folder' needs this option"),
        ({"data.anomalies": {"a": {"source": "x"}}}, "data.anomalies.a.source", "unknown data source 'x'"),
        ({"heads": ["enrgy"]}, "heads.0.name", "unknown head 'enrgy'. Did you mean 'energy'"),
        ({"heads": [{"name": "energy", "options": {"tmperature": 2}}]},
         "heads.0.options.tmperature", "Did you mean 'temperature'?"),
        ({"heads": [{"name": "energy", "options": {"temperature": -1}}]}, "heads.0.options", "temperature"),
        ({"network.source": "digits_resent"}, "network.source", "Did you mean 'digits_resnet'"),
        ({"network.options": {"width": 3}}, "network.options.width", "Did you mean 'widths'?"),
        ({"prune.criterion": "magnitud"}, "prune.criterion", "Did you mean 'magnitude'"),
        ({"sensitivity.loss": "cross_entrpy"}, "sensitivity.loss", "Did you mean 'cross_entropy'"),
        ({"finetune.augment": ["shift", "flop"]}, "finetune.augment.1", "unknown augmentation 'flop'"),
        ({"prune.options": {"powr": 3}}, "prune.options.powr", "unknown option of criterion 'magnitude' 'powr'"),
    ],
)  # fmt: skip
def test_an_unknown_name(tmp_path: Path, overrides: dict[str, Any], key: str, message: str) -> None:
    overrides = {"heads": ["energy"]} | overrides
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, LEAST), overrides)
    assert error.value.key == key
    assert message in str(error.value)


def test_networks_of_the_user_are_looked_up_when_they_are_loaded(tmp_path: Path) -> None:
    overrides = {"network.source": "no.such.module:function", "heads": ["energy"], "prune": None}
    assert load_recipe(write(tmp_path, LEAST), overrides).network.source == "no.such.module:function"


def test_keywords_of_a_function() -> None:
    def function(weights: int, record: int, /, *, power: int, scale: int = 1) -> None: ...

    def anything(**options: int) -> None: ...

    assert keywords(function) == ["power", "scale"]
    assert keywords(anything) is None
    assert required(function) == ["power"]


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4), ("1e3", 1000.0), ("-.5", -0.5), ("010", 10), ("no", "no"), ("off", "off"), ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"), ("null", None), ("~", None), ("true", True), ("True", "True"), ("0x10", "0x10"),
        ("1_000", "1_000"), ("<<", "<<"), ("'5e-4'", "5e-4"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(text)
    assert found == value
    assert type(found) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=plain | st.sampled_from(["no", "5e-4", "08", "1:30", "~", "null", "=", "<<", "0x1", "1_0", "\n", "a: b"]))
def test_what_was_written_is_read_back(value: object) -> None:
    assert read_yaml(write_yaml(value)) == value


def test_all_keys_have_a_type_that_yaml_can_write() -> None:
    assert (
        read_recipe(read_recipe(LEAST).to_yaml()).model_dump() == Recipe.model_validate(read_yaml(LEAST)).model_dump()
    )
