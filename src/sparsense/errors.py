"""Everything sparsense raises on purpose, drawn as a tree.

SparsenseError
├── RecipeError (ValueError)              a key or value of a recipe; carries file and key path
├── UnknownNameError (LookupError)        not in a registry; carries the nearest names
├── InputError (ValueError)               an image, array, folder or file that cannot be used
│   └── UnsafeFileError                   a file that would run code, escape its folder or exceed a limit
├── GraphError (ValueError)               an ONNX model that is invalid, or not of the asked kind
│   └── UnsupportedOperatorError          a node without a differentiation rule; carries its name and type
├── UnsupportedLayerError (ValueError)    a layer that cannot be pruned; carries its name, type and the reason
├── NotFittedError (RuntimeError)         a head or threshold that has not seen data
├── CalibrationError (ValueError)         too few or unusable calibration samples; carries the number needed
├── ExportError (RuntimeError)            the numbers differ from the oracle; carries the worst case
├── TrainingError (RuntimeError)          diverged or impossible training; carries step and learning rate
└── MissingExtraError (ImportError)       an optional dependency; carries the pip command

A message says what was being done, what was expected, what was found and what to do, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from unicodedata import category


def printable(text: str) -> str:
    r"""Text of a stranger's file for a terminal, which control characters could clear, colour or overwrite.

    Example:
        >>> print(printable("a" + chr(27) + "[2J"))
        a\x1b[2J
    """
    return "".join(
        sign if sign in "\n\t" or category(sign)[0] != "C" else sign.encode("unicode_escape").decode() for sign in text
    )


class SparsenseError(Exception):
    """Base of every error that sparsense raises on purpose."""


class RecipeError(SparsenseError, ValueError):
    """A recipe that cannot be run as written."""

    def __init__(self, message: str, *, file: str = "", key: str = "") -> None:
        self.file, self.key = file, key
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(f"{where}: {message}" if where else message)


class UnknownNameError(SparsenseError, LookupError):
    """A name that is not registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        self.nearest = get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, self.nearest))}?" if self.nearest else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(self.known) or '(none)'}.")


class InputError(SparsenseError, ValueError):
    """An input that cannot be used."""


class UnsafeFileError(InputError):
    """A file that is refused for safety."""


class GraphError(SparsenseError, ValueError):
    """An ONNX model that is invalid, or not of the kind that was asked for."""


class UnsupportedOperatorError(GraphError):
    """A node that has no differentiation rule and lies on the path of a gradient."""

    def __init__(self, message: str, *, node: str, op_type: str) -> None:
        self.node, self.op_type = node, op_type
        super().__init__(message)


class UnsupportedLayerError(SparsenseError, ValueError):
    """A layer that cannot be pruned; `layer` is "" where it is the network as a whole."""

    def __init__(self, layer: str, kind: str, reason: str) -> None:
        self.layer, self.kind, self.reason = layer, kind, reason
        what = f"layer {layer!r}" if layer else "the network"
        super().__init__(f"{what} ({kind}) cannot be pruned: {reason}")


class NotFittedError(SparsenseError, RuntimeError):
    """A head or threshold that has not seen data."""


class CalibrationError(SparsenseError, ValueError):
    """Calibration data that cannot support what was asked."""

    def __init__(self, message: str, *, needed: int | None = None) -> None:
        self.needed = needed
        super().__init__(message)


class ExportError(SparsenseError, RuntimeError):
    """An exported file whose numbers differ from the oracle."""

    def __init__(self, message: str, *, worst: float | None = None) -> None:
        self.worst = worst
        super().__init__(message)


class TrainingError(SparsenseError, RuntimeError):
    """A training run that diverged or cannot start."""

    def __init__(self, message: str, *, step: int | None = None, learning_rate: float | None = None) -> None:
        self.step, self.learning_rate = step, learning_rate
        super().__init__(message)


class MissingExtraError(SparsenseError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, doing: str, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{doing} needs {package}, which is not installed: pip install 'sparsense[{extra}]'")
