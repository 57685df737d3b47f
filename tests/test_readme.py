"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_road_gives_a_fitted_detector(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    assert len(BLOCKS[1].strip().splitlines()) <= 12
    scores = names["fitted"].scores(np.zeros((2, 16, 16, 1), np.uint8))  # type: ignore[attr-defined]
    assert scores.shape == (2,)
    assert str(names["calibration"].threshold) in capsys.readouterr().out  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", re.findall(r"^\| `sparsense (\w+)", README, flags=re.MULTILINE))
def test_every_command_of_the_table_exists(command: str) -> None:
    from typer.testing import CliRunner

    from sparsense.cli import app

    found = CliRunner().invoke(app, [command, "--help"])
    assert found.exit_code == 0, found.output


def test_files_that_the_readme_links_to_are_there() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\((?!http)([\w./-]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).is_file()] == []
