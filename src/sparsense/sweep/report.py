"""From a store to `report.html`, `report.md` and `frontier.json`: functions of the store and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsense.benchmark import numbers
from sparsense.benchmark.report import TEMPLATES as SHARED
from sparsense.benchmark.table import Table
from sparsense.errors import InputError
from sparsense.extras import need
from sparsense.files import atomic_write
from sparsense.sweep.columns import COLUMNS, cells, label, measured, swept
from sparsense.sweep.entries import Entry, Failure, Stopped, entries, failures, stopped
from sparsense.sweep.frontier import COSTS, FRONTS, front, recommend
from sparsense.sweep.points import brief, describe
from sparsense.sweep.store import Store
from sparsense.sweep.words import CAUTION, sentences

TEMPLATES = Path(__file__).parent / "templates"
NAMES = ("report.html", "report.md", "frontier.json")


def write_sweep_report(store: Store, folder: str | Path, *, margin: float = 0.005) -> list[Path]:
    """Write the three files of what a store holds so far.

    Args:
        store: Of the sweep.
        folder: Where the files go.
        margin: What a recommended detector may lose against the best dense one, as a share.

    Returns:
        The paths.

    Raises:
        InputError: No sweep was begun in the store, or the folder cannot be written to.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    content = contents(store, margin=margin)
    texts = (
        page(content, Path(folder)),
        markdown(content),
        json.dumps(as_json(content), indent=2, ensure_ascii=False) + "\n",
    )
    written = []
    for name, text in zip(NAMES, texts, strict=True):
        try:
            with atomic_write(Path(folder) / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"writing {Path(folder) / name}: {error.strerror}. The results are in the store; make room, or make "
                "the folder writable, and write the report with sparsense sweep --report"
            ) from error
        written.append(Path(folder) / name)
    return written


def contents(store: Store, *, margin: float) -> dict[str, Any]:
    """Everything that the files say."""
    begun = [event.body for event in store.events if event.kind == "sweep"]
    if not begun:
        raise InputError(f"reporting on the store {store.path}: no sweep was begun in it")
    found = entries(store)
    return {
        "name": begun[-1]["name"],
        "recipe": begun[-1]["text"],
        "entries": found,
        "failures": failures(store),
        "stopped": stopped(store),
        "recommendations": [r for cost in COSTS if (r := recommend(found, cost, margin=margin)) is not None],
        "sentences": sentences(found, margin=margin),
        "notes": _notes(begun, found),
    }


def page(content: dict[str, Any], folder: Path = Path()) -> str:
    """One self-contained page; plotly's JavaScript is inside, once. Links to the runs start at `folder`."""
    doing = "writing the report of a sweep"
    markup = need("markupsafe", doing=doing, extra="report").Markup
    script = need("plotly.offline", doing=doing, extra="report").get_plotlyjs()
    keys = swept(content["entries"])
    columns = [{"key": f"values.{key}", "label": label(key), "text": True} for key in keys] + [
        c.as_json() for c in measured(content["entries"])
    ]
    rows = [cells(entry, keys) for entry in content["entries"]]
    text: str = _environment(autoescape=True).get_template("sweep.html").render(
        content=content,
        caution=CAUTION,
        table=_table(content["entries"]),
        links=[_link(entry, folder) for entry in content["entries"]],
        stopped=_stopped(content["stopped"]),
        data=markup(_script_json({"name": content["name"], "columns": columns, "rows": rows})),
        css=markup((SHARED / "report.css").read_text(encoding="utf-8")),
        own_css=markup((TEMPLATES / "sweep.css").read_text(encoding="utf-8")),
        javascript=markup((TEMPLATES / "sweep.js").read_text(encoding="utf-8")),
        plotly=markup(script),
    )  # fmt: skip
    return text


def markdown(content: dict[str, Any]) -> str:
    """The same without pictures: recommendations, fronts, all detectors, failures."""
    parts = [f"# {content['name']}", *content["sentences"], *content["notes"], CAUTION]
    parts += [
        f"## Front: {_label(quality)} against {_label(cost)}\n\n{_table(kept).to_markdown()}"
        for quality in FRONTS
        for cost in COSTS
        if (kept := front(content["entries"], quality=quality, cost=cost))
    ]
    parts.append(f"## All detectors\n\n{_table(content['entries']).to_markdown()}")
    if content["stopped"]:
        parts.append(f"## Stopped early\n\n{_stopped(content['stopped']).to_markdown()}")
    if content["failures"]:
        parts.append(f"## Failed points\n\n{_failed(content['failures']).to_markdown()}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def as_json(content: dict[str, Any]) -> dict[str, Any]:
    """Detectors, fronts and recommendations for programs; a front is a list of indices into `detectors`."""
    found: list[Entry] = content["entries"]
    index = {id(entry): number for number, entry in enumerate(found)}
    return {
        "format": 1,
        "name": content["name"],
        "detectors": [
            {"point": e.point, "values": e.values, "folder": e.folder, **e.candidate.model_dump(mode="json")}
            for e in found
        ],
        "fronts": [
            {"quality": q, "cost": c, "detectors": [index[id(entry)] for entry in kept]}
            for q in FRONTS
            for c in COSTS
            if (kept := front(found, quality=q, cost=c))
        ],
        "recommendations": [
            {"cost": r.cost, "margin": r.margin, "detector": index[id(r.entry)], "command": r.entry.command}
            for r in content["recommendations"]
        ],
        "stopped": [point._asdict() for point in content["stopped"]],
        "failures": [failure._asdict() for failure in content["failures"]],
    }


def _notes(begun: Sequence[dict[str, Any]], found: Sequence[Entry]) -> list[str]:
    notes = []
    together = sum(entry.candidate.together for entry in found)
    if together:
        notes.append(
            f"The times of {together} finalists were measured together, in interleaved rounds: they are comparable; "
            "the recommendation in time is made of them alone. Those of the others are ratios within their own runs."
        )
    if not together and any(row.get("jobs", 1) > 1 for row in begun) and any(entry.candidate.time for entry in found):
        notes.append(
            "Points ran at the same time, so times were measured on a busy machine: measure the ones that matter again "
            "with sparsense bench."
        )
    if len({row["text"] for row in begun}) > 1:
        notes.append("The sweep was changed between its starts; points that it has no more are left out.")
    return notes


def _table(found: Sequence[Entry]) -> Table:
    keys, columns = swept(found), measured(found)
    return Table(
        "Times are ratios to the plain dense network, measured in turns within each run; AUROC and FPR95 are means "
        "over the anomalous sets.",
        [*map(label, keys), *(column.label for column in columns)],
        [
            [*(brief(entry.values.get(key, numbers.NONE)) for key in keys), *(column.show(entry) for column in columns)]
            for entry in found
        ],
        labels=len(keys) + 3,
    )


def _link(entry: Entry, folder: Path) -> str:
    """The report of a run, relative where it lies below, so that the folder can be moved."""
    run, top = Path(entry.folder).absolute(), folder.absolute()
    place = run.relative_to(top).as_posix() if run.is_relative_to(top) else run.as_uri()
    return f"{quote(place, safe='/:%')}/report.html"


def _failed(found: Sequence[Failure]) -> Table:
    rows = [[describe(f.values), f.reason] for f in found]
    return Table("Points that ended without results.", ["point", "reason"], rows, labels=2)


def _stopped(found: Sequence[Stopped]) -> Table:
    rows = [[describe(point.values), str(point.epoch), numbers.digits(point.value)] for point in found]
    return Table(
        "Points that ended early, as others of their kind were better: after which epoch of fine-tuning, and what they "
        "had reached on training samples (accuracy; of autoencoders the error with a minus).",
        ["point", "epoch", "reached"],
        rows,
    )


def _label(name: str) -> str:
    return next(column.label for column in COLUMNS if column.key == name)


def _script_json(value: object) -> str:
    """JSON that cannot end the script that it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _environment(*, autoescape: bool) -> Any:
    jinja2 = need("jinja2", doing="writing the report of a sweep", extra="report")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, SHARED]),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
