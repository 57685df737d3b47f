"""A detector file opened to attack: what it says of inputs as real numbers, and the slopes of what it says."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import differentiate
from sparsense.autodiff.shapes import dims
from sparsense.errors import InputError
from sparsense.graph import Session, load_graph
from sparsense.graph.build import Builder
from sparsense.graph.run import with_outputs
from sparsense.robustness.attack import Array, Ball, Norm, Slope

AT_ONCE = 64
CARD_KEY = "sparsense.card"
Loss = Literal["cross_entropy", "margin"]


class Says(NamedTuple):
    """What a detector says of N inputs.

    Args:
        output: Logits `[N, K]`, or the reconstruction.
        score: `[N]`.
        flags: `[N]`, True where it sees an anomaly.
    """

    output: Array
    score: Array
    flags: NDArray[np.bool_]


class Victim:
    """A detector whose inputs may be any real numbers, so that attacks and noise can move them a little.

    Images are numbers in [0, 1] in the detector's own layout, whatever type the file takes; rows of numbers are as they
    are. The gradients are nodes of the graph; where the file has gradients already, these are differentiated again.

    Args:
        model: The graph of a detector.
        task: What its output is.
    """

    def __init__(self, model: ir.Model, *, task: str = "classifier") -> None:
        self.model = model.clone()
        given = next(value for value in self.model.graph.inputs if value.name == "input")
        self.task, self.is_image = task, given.dtype == ir.DataType.UINT8
        if self.is_image:
            _make_real(given)
        self.model.graph.inputs[:] = [given]

    @classmethod
    def open(cls, path: str | Path) -> Victim:
        """The detector in a file.

        Raises:
            InputError: No detector; or one of a table or series, whose columns have units of their own.
        """
        model = load_graph(Path(path))
        if CARD_KEY not in model.metadata_props:
            raise InputError(f"attacking {path}: it is no detector, as it carries no card; sparsense attach makes one")
        card = json.loads(model.metadata_props[CARD_KEY])
        if card["preprocessing"].get("columns"):
            raise InputError(
                f"attacking {path}: it takes a table or series, numbers in units of their own and words; one radius "
                "for all of them has no meaning"
            )
        return cls(model, task=card.get("task", "classifier"))

    def ball(self, norm: Norm, radius: float) -> Ball:
        """All inputs within a distance; images stay in [0, 1]."""
        limits = (0.0, 1.0) if self.is_image else (-np.inf, np.inf)
        return Ball(norm, radius, *limits)

    def real(self, inputs: NDArray[Any]) -> Array:
        """Inputs as the detector takes them, as numbers to attack."""
        return inputs.astype(np.float64) / self._scale

    def __call__(self, inputs: Array) -> Says:
        """What the detector says."""
        output, score, flags = self._run(self._forward, inputs)
        return Says(output.astype(np.float64), score.astype(np.float64), flags.astype(bool))

    def pull(self, inputs: Array, weights: Array) -> Array:
        """The gradient of sum_k weights_k output_k by the inputs, `[N, ...]`: any loss of logits goes through it."""
        (found,) = self._run(self._pull, inputs, weights)
        return found.astype(np.float64) * self._scale

    def score_slope(self, *, sign: int = -1) -> Slope:
        """The detector's own score; sign -1 makes it small (an anomaly hides), +1 large (false alarms).

        Raises:
            GraphError: The score has steps without a gradient.
        """

        def slope(inputs: Array) -> tuple[Array, Array]:
            score, gradient = self._run(self._climb, inputs)
            return sign * score.astype(np.float64), sign * gradient.astype(np.float64) * self._scale

        return slope

    def loss_slope(self, labels: NDArray[Any], loss: Loss = "cross_entropy") -> Slope:
        """What an attack on the classifier makes large: -log p_y, or max_(k != y) z_k - z_y.

        Args:
            labels: `[N]`, of the inputs in their order.
            loss: The margin has a slope where the probabilities have none left.

        Raises:
            InputError: No classifier.
        """
        if self.classes is None:
            raise InputError("attacking a classifier's loss: expected logits, found a reconstruction; attack the score")
        truth = np.eye(self.classes)[np.asarray(labels, np.int64)]

        def slope(inputs: Array) -> tuple[Array, Array]:
            value, weights = _losses(self(inputs).output, truth, loss)
            return value, self.pull(inputs, weights)

        return slope

    @property
    def classes(self) -> int | None:
        """How many logits there are; None for a reconstruction."""
        shape = dims(self._value("output"))
        return shape[1] if self.task == "classifier" and len(shape) == 2 and isinstance(shape[1], int) else None

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Of one input."""
        sizes = dims(self.model.graph.inputs[0])[1:]
        return tuple(size if isinstance(size, int) else None for size in sizes)

    @property
    def _scale(self) -> float:
        return 255.0 if self.is_image else 1.0

    @cached_property
    def _forward(self) -> Session:
        return self._session(self.model, ["output", "score", "is_anomaly"])

    @cached_property
    def _pull(self) -> Session:
        model = self.model.clone()
        given, output = model.graph.inputs[0], _named(model, "output")
        weights = ir.val("weights", ir.DataType.FLOAT, output.shape)
        model.graph.inputs.append(weights)
        op = Builder(model.graph)
        value = op.ReduceSum(op.Mul(output, weights), np.array([1]), keepdims=0)
        return self._session(model, [], differentiate(op, of=value, wrt=[given])[given])

    @cached_property
    def _climb(self) -> Session:
        model = self.model.clone()
        given, score = model.graph.inputs[0], _named(model, "score")
        gradient = differentiate(Builder(model.graph), of=score, wrt=[given])[given]
        return self._session(model, ["score"], gradient)

    def _session(self, model: ir.Model, names: list[str], *more: ir.Value) -> Session:
        return Session(with_outputs(model, [*(_named(model, name) for name in names), *more]), threads=1)

    def _value(self, name: str) -> ir.Value:
        return _named(self.model, name)

    def _run(self, session: Session, inputs: Array, *more: Array) -> list[NDArray[Any]]:
        columns = [np.asarray(column, np.float32) for column in (inputs * self._scale, *more)]
        found = [
            session({n: c[start : start + AT_ONCE] for n, c in zip(session.input_names, columns, strict=True)})
            for start in range(0, len(inputs), AT_ONCE)
        ]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _losses(logits: Array, truth: Array, loss: Loss) -> tuple[Array, Array]:
    """The value for each input and its gradient by the logits."""
    if loss == "cross_entropy":
        shifted = logits - logits.max(1, keepdims=True)
        odds = np.exp(shifted)
        return np.log(odds.sum(1)) - (shifted * truth).sum(1), odds / odds.sum(1, keepdims=True) - truth
    rival = np.eye(logits.shape[1])[np.where(truth > 0, -np.inf, logits).argmax(1)]
    weights = rival - truth
    return (logits * weights).sum(1), weights


def _make_real(given: ir.Value) -> None:
    """Let the input be float32: images are only moved about before they are cast to it."""
    waiting = [given]
    while waiting:
        value = waiting.pop()
        value.type = ir.TensorType(ir.DataType.FLOAT)  # not value.dtype: copies of a graph share the object that has it
        waiting += [out for node in value.consumers() if node.op_type != "Cast" for out in node.outputs]


def _named(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.outputs if value.name == name)
