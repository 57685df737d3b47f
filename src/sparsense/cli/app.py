"""The application: what all commands share, and how errors leave the program.

Exit codes: 0 done; 1 an anomaly was found (when asked to say so), or a detector failed its verification; 2 a mistake
that the message explains; 70 a fault of the program, with its traceback; 130 interrupted; 141 the reader went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import sparsense
from sparsense.errors import SparsenseError, printable


class _Group(TyperGroup):
    """Turns errors that are explained to the user into one message; all others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SparsenseError as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            fail(f"{error}{notes}")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit fails again
            raise typer.Exit(141) from None
        except OSError as error:
            if error.filename is None:  # not about a file of the user
                raise
            fail(f"{error.strerror}: {error.filename}")


def fail(message: str) -> NoReturn:
    """Leave with a message and exit code 2."""
    typer.echo(printable(f"error: {message}"), err=True)
    raise typer.Exit(2)


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(sparsense.__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Prune pretrained networks, attach detection heads, ship one calibrated ONNX file."""


def main() -> None:
    """The `sparsense` command."""
    try:
        app()
    except Exception:  # Python would exit with 1, which means that an anomaly was found
        traceback.print_exc()
        sys.exit(70)
