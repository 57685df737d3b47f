"""The members of a fusion: heads by name, with their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsense.errors import UnknownNameError
from sparsense.heads.head import Head, make_head

Member = str | Mapping[str, Any]


def checked_members(members: Sequence[Member]) -> Sequence[Member]:
    """A list of at least 2."""
    if isinstance(members, (str, Mapping)) or not isinstance(members, Sequence) or len(members) < 2:
        raise ValueError(f"members must be a list of at least 2 heads; got {members!r}")
    return members


def described(member: Member) -> dict[str, Any]:
    """Name and options, written out."""
    found: dict[str, Any] = {"name": member} if isinstance(member, str) else {**member}
    if not set(found) <= {"name", "options"} or not isinstance(found.get("name"), str) or found["name"] == "fusion":
        raise ValueError(f"members must be names of other heads, or {{name: ..., options: ...}}; got {member!r}")
    return {"name": found["name"], "options": dict(found.get("options") or {})}


def made(member: Mapping[str, Any]) -> Head:
    """The head that a description means."""
    try:
        return make_head(member["name"], member["options"])
    except UnknownNameError as error:
        raise ValueError(f"members must be registered heads with their own options: {error}") from error


def common_task(heads: Sequence[Head]) -> str:
    """The kind of network that all of them are for."""
    tasks = {head.task for head in heads}
    if len(tasks) > 1:
        raise ValueError(f"members must be for the same kind of network; got {', '.join(sorted(tasks))}")
    return tasks.pop()
