import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsense.data import SOURCES, Dataset
from sparsense.data.sources import Source, prepare
from sparsense.errors import InputError, MissingExtraError, UnknownNameError

BUNDLED = ["digits", "letters", "inverted_digits", "noisy_digits", "photo_patches"]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_documents_itself(name):
    source = SOURCES[name]
    doc = inspect.getdoc(source.load)
    own = [p.name for p in inspect.signature(source.load).parameters.values()]
    assert source.summary.endswith(".")
    assert source.splits
    for parameter in own:
        assert f"\n    {parameter}: " in doc, f"{name}: option {parameter} has no line under Args"
    assert {"limit", "seed", "classes", "size", "channels"} <= set(source.options)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_described_in_the_documentation(name):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert f"`{name}`" in text


@pytest.mark.parametrize("name", BUNDLED)
def test_common_options(name):
    source = SOURCES[name]
    split = source.splits[-1]
    whole, part = source(split), source(split, limit=7)
    assert len(part) == 7
    rows = {row.tobytes() for row in whole.inputs}
    assert all(row.tobytes() in rows for row in part.inputs)
    assert source(split, limit=2, size=8, channels=3).inputs.shape == (2, 8, 8, 3)
    one_class = source(split, classes=[int(whole.labels[0])])
    assert len(one_class) == (whole.labels == whole.labels[0]).sum() < len(whole)


def test_a_source_that_limits_itself_is_asked_to():
    seen = {}

    def load(split, *, limit=None, seed=0):
        seen.update(limit=limit, seed=seed)
        return Dataset("x", np.zeros((3, 1), np.float32))

    assert len(Source("x", ("all",), load)(limit=2, seed=5)) == 3
    assert seen == {"limit": 2, "seed": 5}


def test_splits_are_asked_for_where_there_is_a_choice():
    with pytest.raises(InputError, match="'digits' needs a split: train, calibration, test"):
        SOURCES["digits"]()
    with pytest.raises(UnknownNameError, match=r"'tset'\. Did you mean 'test'"):
        SOURCES["digits"]("tset")
    defaults = {name: SOURCES[name].default_split for name in ("digits", "letters", "npz", "cifar10")}
    assert defaults == {"digits": "", "letters": "test", "npz": "all", "cifar10": ""}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "table",
            {"path": "t.csv", "drop": "ab"},
            r"option 'drop' .*'table': expected a list.*\[one, two\]; found 'ab'",
        ),
        ("table", {"path": "t.csv", "shares": 0.5}, r"expected a list, such as \[0\.6, 0\.2, 0\.2\]; found 0\.5"),
        ("table", {"path": 3}, "option 'path' of data source 'table': expected a text; found 3"),
        ("series", {"path": "t.csv", "length": 16.0}, r"option 'length' .*: expected a whole number; found 16\.0"),
        ("series", {"path": "t.csv", "step": True}, "option 'step' .*: expected a whole number; found True"),
        ("image_folder", {"path": "f", "size": "32"}, "option 'size' .*: expected a whole number or a list"),
        ("digits", {"limit": "5"}, "option 'limit' .*: expected a whole number or null; found '5'"),
        ("npz", {"path": "f.npz", "layout": "CHW"}, "option 'layout' .*: expected NHWC or NCHW; found 'CHW'"),
        ("noisy_digits", {"strength": "x"}, "option 'strength' .*: expected a number; found 'x'"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        SOURCES[name](SOURCES[name].splits[-1], **options)


@pytest.mark.parametrize("name", SOURCES)
def test_defaults_are_of_the_declared_kind(name):
    source = SOURCES[name]
    parameters = {**inspect.signature(prepare).parameters, **inspect.signature(source.load).parameters}
    defaults = {key: p.default for key, p in parameters.items() if key in source.options and p.default is not p.empty}
    assert len(defaults) >= 5
    assert not source.wrong_values(defaults)
    assert not source.wrong_values({"path": Path("f"), "limit": np.int64(3), "seed": 0, "shares": np.array([1, 0, 0])})


def test_classes_that_are_not_there():
    data = Dataset("x", np.zeros((3, 1), np.float32), np.array([0, 1, 1]))
    assert len(prepare(data, classes=[1])) == len(prepare(data, classes=1)) == 2
    for classes in ([1, 7], [], ["good"]):
        with pytest.raises(InputError, match="has the labels 0, 1"):
            prepare(data, classes=classes)
    with pytest.raises(InputError, match="has the labels -1, 0"):
        prepare(Dataset("x", data.inputs, np.array([0, -1, 0])), classes="bad")
    with pytest.raises(InputError, match="has none"):
        prepare(Dataset("x", data.inputs), classes=[0])


@pytest.mark.parametrize("module", ["sparsense.data", "sparsense.benchmark"])
def test_importing_loads_nothing_heavy(module):
    heavy = {"torch", "PIL", "sklearn", "scipy", "plotly", "jinja2"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "missing"), [("digits", "sklearn"), ("letters", "PIL"), ("photo_patches", "sklearn")])
def test_without_the_extra_the_user_is_told(name, missing, monkeypatch):
    for module in [missing, *(loaded for loaded in sys.modules if loaded.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"'{name}' needs {missing}.*pip install 'sparsense\[data\]'"):
        SOURCES[name]("test")
