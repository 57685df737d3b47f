"""What a benchmark was asked and has found, as a JSON file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sparsense.benchmark.machine import this_machine, versions


def save_card(options: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> None:
    """Where the option `--out` says, if it does; folders of this machine are left out."""
    if not options.out:
        return
    asked = {key: value for key, value in vars(options).items() if key not in ("data_root", "out")}
    card = {**more, "arguments": asked, "rows": rows, "machine": this_machine().model_dump(), "versions": versions()}
    Path(options.out).write_text(json.dumps(card, indent=1, default=str))
