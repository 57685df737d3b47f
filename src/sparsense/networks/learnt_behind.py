"""Behind which encoding of a table a network was trained, in the metadata of the file of its weights."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open

from sparsense.data.columns import Column
from sparsense.errors import InputError

KEY = "columns"
_COLUMNS = TypeAdapter(tuple[Column, ...])


def encoding_metadata(columns: tuple[Column, ...]) -> dict[str, str] | None:
    """What goes beside the tensors; None without columns.

    Example:
        >>> encoding_metadata((Column("size", mean=2.0),))
        {'columns': '[{"name":"size","levels":null,"fill":0.0,"mean":2.0,"std":1.0}]'}
    """
    return {KEY: _COLUMNS.dump_json(columns).decode()} if columns else None


def read_encoding(path: Path) -> tuple[Column, ...]:
    """The columns of the table that the weights in a file were trained on; none where it does not say.

    Args:
        path: A file of weights, of any kind; a safetensors file must be whole.

    Raises:
        InputError: It says so in another form.
    """
    if path.suffix != ".safetensors":
        return ()
    with safe_open(path, framework="np") as file:
        text = (file.metadata() or {}).get(KEY)
    try:
        return () if text is None else _COLUMNS.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"reading {path}: its metadata {KEY!r}, the encoding of a table: {where}: {first['msg']}"
        ) from error
