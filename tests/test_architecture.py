"""The table in docs/architecture.md, held against every import of src/."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYTHING = "everything"


@dataclass(frozen=True)
class Import:
    """One imported module, and whether the import waits inside a function or is for types alone."""

    module: str
    late: bool
    types_only: bool


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    internal: frozenset[str]
    in_functions: frozenset[str]
    third_party: frozenset[str]


def read_table(text: str) -> dict[str, Rule]:
    """Part -> what it may import; `everything` is spelt out."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    names = {name.strip("`") for row in rows for name in row[0].split()}
    cells = {name.strip("`"): [cell.split() for cell in row[1:]] for row in rows for name in row[0].split()}

    def parts(words: list[str]) -> frozenset[str]:
        return frozenset(names - set(words[2:]) if words[:1] == [EVERYTHING] else words)

    return {part: Rule(parts(own), parts(late), frozenset(third)) for part, (own, late, third) in cells.items()}


parse = cache(ast.parse)


@cache
def imports(source: str) -> list[Import]:
    """All imports of a module, with `from package import submodule` kept as `package`."""
    return list(_imports(parse(source), late=False, types_only=False))


def _imports(node: ast.AST, *, late: bool, types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, late, types_only) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield Import(child.module or "", late, types_only)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, late=late or function, types_only=types_only or checking)


def part_of(module: str) -> str:
    """`sparsense.data.digits` -> `data`; the package itself is no part."""
    return module.split(".")[1] if "." in module else ""


def violations(modules: Mapping[str, str], table: Mapping[str, Rule]) -> list[str]:
    """Every import that the table does not allow."""
    found = []
    for module, source in modules.items():
        if not (part := part_of(module)) or part == "__main__":
            continue
        if part not in table:
            found.append(f"{part} is not in the table")
            continue
        found += [f"{module} imports {i.module}" for i in imports(source) if not _allowed(i, part, table[part])]
    return found


def _allowed(imported: Import, part: str, rule: Rule) -> bool:
    top = imported.module.split(".")[0]
    if top != "sparsense":
        third_party = rule.third_party | ({"torch", "rich"} if imported.late or imported.types_only else set())
        return top in sys.stdlib_module_names or top in third_party
    other = part_of(imported.module)
    late = imported.late or imported.types_only
    return other in {"", "errors", part} | rule.internal | (rule.in_functions if late else frozenset())


def circle(modules: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle while they are loaded; empty when there is none."""
    graph = {name: _loaded(source, modules) - {name} for name, source in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _loaded(source: str, modules: Mapping[str, str]) -> set[str]:
    """Submodules for `from package import submodule`, so that a package may collect its own modules."""
    names: set[str] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= below & set(modules) or {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    early = {i.module for i in imports(source) if not (i.late or i.types_only)}
    return {name for name in names & set(modules) if name in early or name.rpartition(".")[0] in early}


@cache
def sources() -> dict[str, str]:
    """Dotted name -> text of every module of src/."""
    found = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def table() -> dict[str, Rule]:
    return read_table((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


# The project


def test_imports_are_those_of_the_table() -> None:
    assert violations(sources(), table()) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert circle(sources()) == []


def test_only_one_module_uses_torch_pruning() -> None:
    users = [m for m, s in sources().items() if any(i.module.startswith("torch_pruning") for i in imports(s))]
    assert set(users) <= {"sparsense.pruning.trace"}


def unsafe_calls(source: str) -> list[str]:
    """Calls that would run code from a file: unpickling, in any of its forms."""
    calls = [node for node in ast.walk(parse(source)) if isinstance(node, ast.Call)]
    switches = {("allow_pickle", True), ("weights_only", False)}
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func)
        in ("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.unsafe_load", "eval", "exec")
        or any(isinstance(k.value, ast.Constant) and (k.arg, k.value.value) in switches for k in call.keywords)
    ]


def test_nothing_runs_code_from_a_file() -> None:
    assert {module: calls for module, source in sources().items() if (calls := unsafe_calls(source))} == {}


def torch_free() -> list[str]:
    """All modules of the parts that stand above `networks` in the table, and the command line."""
    parts = [*list(table())[: list(table()).index("networks")], "cli"]
    return [module for module in sources() if part_of(module) in parts]


GUARD = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torch_pruning", "safetensors", "onnxscript"):
            raise ImportError("must not be imported: " + name)
sys.meta_path.insert(0, Guard())
for module in sys.argv[1:]:
    __import__(module)
"""


def load(modules: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", GUARD, *modules], capture_output=True, text=True, check=False)


def test_the_detecting_half_is_loaded_without_torch() -> None:
    modules = torch_free()
    assert {"sparsense.detector", "sparsense.cli.attach", "sparsense.data.images"} <= set(modules)
    done = load(modules)
    assert done.returncode == 0, done.stderr


# That these tests can fail


def test_the_loading_test_can_fail() -> None:
    assert "must not be imported: torch" in load(["sparsense.networks"]).stderr


@pytest.mark.parametrize(
    "call", ["pickle.loads(x)", "np.load(p, allow_pickle=True)", "torch.load(p, weights_only=False)"]
)
def test_a_call_that_runs_code_is_found(call: str) -> None:
    assert unsafe_calls(f"x = [{call}]") == [call]
    assert unsafe_calls("np.load(p, allow_pickle=False); torch.load(p, weights_only=True)") == []


TABLE = """
| part | may import | in functions also | third party |
|---|---|---|---|
| `errors` | | | |
| `low` | | | numpy |
| `high` `twin` | low | top | |
| `top` | everything but high | | |
"""


def test_the_table_is_read_as_it_is_meant() -> None:
    found = read_table(TABLE)
    assert list(found) == ["errors", "low", "high", "twin", "top"]
    assert found["low"].third_party == {"numpy"}
    assert (found["twin"].internal, found["twin"].in_functions) == ({"low"}, {"top"})
    assert found["top"].internal == {"errors", "low", "twin", "top"}


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("low.a", "import json, numpy.linalg", True),
        ("low.a", "import scipy", False),
        ("low.a", "def f():\n    import scipy", False),
        ("low.a", "from sparsense.errors import SparsenseError", True),
        ("low.a", "from sparsense import __version__", True),
        ("low.a", "from sparsense.high import x", False),
        ("low.a", "def f():\n    from sparsense.high.x import y", False),
        ("low.a", "try:\n    import sparsense.high\nexcept ImportError:\n    x = 1", False),
        ("high.a", "import sparsense.low.b", True),
        ("high.a", "from sparsense.top import x", False),
        ("high.a", "def f():\n    from sparsense.top import x", True),
        ("high.a", "class A:\n    def f(self):\n        import sparsense.top", True),
        ("high.a", "if TYPE_CHECKING:\n    from sparsense.top import x", True),
        ("top.a", "from sparsense.low import x", True),
        ("top.a", "from sparsense.high import x", False),
        ("new.a", "", False),
    ],
)
def test_an_import_outside_the_table_is_found(module: str, source: str, allowed: bool) -> None:
    assert (violations({f"sparsense.{module}": source}, read_table(TABLE)) == []) is allowed


def test_a_circle_is_found() -> None:
    one = {"sparsense.a": "import sparsense.b", "sparsense.b": "from sparsense.c import x", "sparsense.c": ""}
    assert circle(one) == []
    assert set(circle(one | {"sparsense.c": "from sparsense import a"})) == {
        "sparsense.a",
        "sparsense.b",
        "sparsense.c",
    }
    assert circle(one | {"sparsense.c": "def f():\n    import sparsense.a"}) == []
