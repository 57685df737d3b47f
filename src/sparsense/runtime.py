"""Run an exported detector: raw inputs in, scores and decisions out, with numpy and ONNX Runtime alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from sparsense.errors import InputError

CARD_KEY = "sparsense.card"
CARD_FORMAT = 1
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
UNREADABLE = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    UnicodeDecodeError,  # names that are no text
)


@dataclass(frozen=True, eq=False)
class Detection:
    """What a detector says about N inputs; row i of every array belongs to input i.

    Args:
        score: float32 `[N]`, raw, higher = more anomalous.
        p_value: float32 `[N]` in (0, 1]: how rarely an in-distribution input scores at least as high.
        is_anomaly: bool `[N]`, score > threshold.
        output: What the network itself answers: logits `[N, K]`, or the reconstruction.
        explanation: Contributions to the score, `[N, P]`, when asked for; what they belong to is in the card.
        explanation_map: Where in the image the score comes from, `[N, H, W]`, when asked for.
    """

    score: NDArray[np.float32]
    p_value: NDArray[np.float32]
    is_anomaly: NDArray[np.bool_]
    output: NDArray[np.float32]
    explanation: NDArray[np.float32] | None = None
    explanation_map: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.score)


OUTPUTS = ["score", "p_value", "is_anomaly", "output"]
EXPLANATIONS = ["explanation", "explanation_map"]


class ExportedDetector:
    """A detector file, ready to score. Preprocessing is inside the file: give it raw inputs.

    Args:
        path: A detector written by sparsense.
        providers: ONNX Runtime execution providers, in order of preference.
        threads: Threads per operator; None = ONNX Runtime's choice.
        micro_batch: Samples run at once. Memory grows with it, not with the number of inputs. None = what the card
            recommends: as many as fit into the cache.

    Raises:
        InputError: The file is not there, not a detector, or a provider is not available.

    Example:
        >>> ExportedDetector("missing.onnx")
        Traceback (most recent call last):
        ...
        sparsense.errors.InputError: detector file missing.onnx does not exist
    """

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1; got {micro_batch}")
        self.path = Path(path)
        self._session = _open(self.path, providers, threads)
        with _readable(self.path):
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            self.card = _read_card(self.path, self.metadata)
            _check_interface(self.path, self._session)
        self.micro_batch = micro_batch or _recommended(self.card)
        value = self._session.get_inputs()[0]
        self.dtype = DTYPES[value.type]
        self.input_shape = tuple(size if isinstance(size, int) else None for size in value.shape[1:])
        self.group = _group(self.path, self.card, self.input_shape)
        present = {output.name for output in self._session.get_outputs()}
        self.explanations = [name for name in EXPLANATIONS if name in present]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing inside the file: layout, dtype, scale, mean, std."""
        return dict(self.card["preprocessing"])

    @property
    def layout(self) -> str:
        """Order of the axes of an input: NHWC, NCHW or ND."""
        return str(self.card["preprocessing"]["layout"])

    @property
    def single_shape(self) -> tuple[int | None, ...]:
        """The shape of one input; where groups are judged, `input_shape` is that of a group of them."""
        return self.input_shape if self.group == 1 else self.input_shape[1:]

    @property
    def takes(self) -> str:
        """What an input must be, in words."""
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.dtype} of shape {_shape(('N', *self.input_shape))}{columns}"

    @property
    def columns(self) -> list[str]:
        """Of a table with words and gaps: the names of its columns, in the order of a row; else none.

        NaN is a gap then, and a word its place among `preprocessing["columns"][i]["levels"]`, -1 for any other.
        """
        return [str(column["name"]) for column in self.card["preprocessing"].get("columns", [])]

    @property
    def threshold(self) -> float:
        """The calibrated threshold, used when a call gives none; that of all samples where each class has its own."""
        return float(self.card["calibration"]["threshold"])

    @property
    def class_thresholds(self) -> NDArray[np.float64] | None:
        """The threshold of each predicted class, `[K]`; None when there is one for all."""
        rows = self.card["calibration"].get("classes")
        return None if rows is None else np.array([row["threshold"] for row in rows])

    def __call__(
        self, inputs: NDArray[Any], threshold: float | NDArray[Any] | None = None, *, explain: bool = False
    ) -> Detection:
        """Score a batch of any size.

        Args:
            inputs: `[N, *input_shape]` of the detector's dtype; a memory-mapped array is read piece by piece.
            threshold: Replaces the calibrated threshold in this call; where each class has its own, one number for
                all of them or `[K]`.
            explain: Also give the explanations of a detector that was attached with them; they cost extra time.

        Returns:
            One row per input, none for an empty batch. A row does not depend on the other inputs. Where groups are
            judged, an input is a group of them.

        Raises:
            InputError: Another type, dtype or shape; NaN or infinity; a threshold that is not a number; explanations
                that the file does not have.
        """
        self.check(inputs)
        if explain and not self.explanations:
            raise InputError(f"{self.path.name} has no explanations: attach the head again, and ask for them (explain)")
        names = [*OUTPUTS, *(self.explanations if explain else [])]
        feed: dict[str, NDArray[Any]] = {"explain": np.asarray(True)} if explain else {}
        if threshold is not None:
            feed["threshold"] = self._threshold(threshold)
        starts = range(0, len(inputs), self.micro_batch)
        batches = [self._run(inputs, start, feed, names) for start in starts] or [self._nothing(names)]
        columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
        return Detection(**dict(zip(names, columns, strict=True)))

    def _run(
        self, inputs: NDArray[Any], start: int, feed: dict[str, NDArray[Any]], names: list[str]
    ) -> list[NDArray[Any]]:
        batch = np.ascontiguousarray(inputs[start : start + self.micro_batch])
        if batch.dtype.kind == "f":
            _check_finite(batch, start, gaps=bool(self.columns))
        try:
            outputs: list[NDArray[Any]] = self._session.run(names, {"input": batch, **feed})
        except UNREADABLE as error:
            found = (
                f"scoring inputs {start} to {start + len(batch) - 1} with {self.path}: the graph in it fails ({error})"
            )
            raise InputError(f"{found}; run sparsense verify, or export it again") from error
        return outputs

    def _nothing(self, names: list[str]) -> list[NDArray[Any]]:
        """The outputs for no inputs; convolutions refuse an empty batch, so the session is not asked."""
        found = {value.name: value for value in self._session.get_outputs()}
        shapes = ([s if isinstance(s, int) else 0 for s in found[name].shape[1:]] for name in names)
        return [
            np.empty((0, *shape), np.bool_ if name == "is_anomaly" else np.float32)
            for name, shape in zip(names, shapes, strict=True)
        ]

    def _threshold(self, threshold: float | NDArray[Any]) -> NDArray[np.float32]:
        """A number, or one per class, in the shape that the file takes."""
        if np.isnan(threshold).any():
            raise InputError("the threshold is NaN: it must be a number, or infinity for 'never'")
        values = {value.name: value for value in self._session.get_overridable_initializers()}
        shape = tuple(values["threshold"].shape)
        if np.ndim(threshold) and np.shape(threshold) != shape:
            raise InputError(
                f"{self.path.name} takes a threshold of shape {_shape(shape)}; got {_shape(np.shape(threshold))}"
            )
        return np.broadcast_to(np.asarray(threshold, np.float32), shape).copy()

    def check(self, inputs: object, *, single: bool = False) -> None:
        """Refuse what is no batch for this detector; numbers are not looked at.

        Args:
            inputs: Anything.
            single: These are inputs that groups are made of, where the detector judges groups.

        Raises:
            InputError: Another type, dtype or shape.
        """
        expected = self.single_shape if single else self.input_shape
        wanted = f"{self.path.name} takes {self.takes}"
        if single and self.group > 1:
            wanted = f"{self.path.name} judges groups of {self.group} inputs of shape {_shape(expected)}, {self.dtype}"
        if not isinstance(inputs, np.ndarray):
            raise InputError(f"{wanted}; got {type(inputs).__name__}: pass a numpy array")
        if inputs.dtype != self.dtype:
            raise InputError(f"{wanted}; got {inputs.dtype} of shape {_shape(inputs.shape)}: {self._cast()}")
        if not _fits(inputs.shape[1:], expected):
            raise InputError(f"{wanted}; got {self.dtype} of shape {_shape(inputs.shape)}{self._hint(inputs)}")

    def _cast(self) -> str:
        if self.dtype == "uint8":
            return "the preprocessing is inside the file, so pass the raw bytes 0..255"
        return "use inputs.astype(numpy.float32)"

    def _hint(self, inputs: NDArray[Any]) -> str:
        """What the user most likely did: forgot the batch axis, or the other order of the channels."""
        shape, layout = inputs.shape, self.layout
        if self.group > 1:
            if not _fits(shape[1:], self.single_shape):
                return ""
            return f": it judges {self.group} inputs as one, use inputs.reshape(-1, {self.group}, *inputs.shape[1:])"
        if _fits(shape, self.input_shape):
            return ": for a single input add the batch axis, inputs[None]"
        if layout == "NHWC" and inputs.ndim == 4 and _fits((*shape[2:], shape[1]), self.input_shape):
            return ": these are channels first (NCHW), use inputs.transpose(0, 2, 3, 1)"
        if layout == "NCHW" and inputs.ndim == 4 and _fits((shape[3], *shape[1:3]), self.input_shape):
            return ": these are channels last (NHWC), use inputs.transpose(0, 3, 1, 2)"
        return ""


def _open(path: Path, providers: Sequence[str], threads: int | None) -> Any:
    """An inference session; ONNX Runtime itself refuses external data outside the file's folder."""
    if not path.is_file():
        raise InputError(f"detector file {path} {'is not a file' if path.exists() else 'does not exist'}")
    available = ort.get_available_providers()
    if absent := [name for name in providers if name not in available]:
        raise InputError(f"{path.name} cannot run on {absent}: this ONNX Runtime offers {available}")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: a threshold that can be overridden is not worth a warning
    if threads is not None:
        options.intra_op_num_threads = threads
    with _readable(path):
        return ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what ONNX Runtime says about a damaged file into one error."""
    try:
        yield
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an ONNX model: {error}") from error


def _read_card(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if CARD_KEY not in metadata:
        raise InputError(
            f"{path} is an ONNX model but not a sparsense detector: it carries no card. "
            f"Attach a head first: sparsense attach {path} --head ..."
        )
    try:
        card: dict[str, Any] = dict(json.loads(metadata[CARD_KEY]))
        used = card["format"], card["preprocessing"]["layout"], float(card["calibration"]["threshold"])
        _recommended(card)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} has a card that cannot be read ({error!r}): export it again") from error
    if used[0] != CARD_FORMAT:
        raise InputError(
            f"{path} has a card of format {used[0]!r}; this sparsense reads format {CARD_FORMAT}: "
            "export it again, or install the version that wrote it"
        )
    return card


def _recommended(card: dict[str, Any]) -> int:
    """Samples to run at once; files of earlier versions say nothing."""
    return min(max(int(card.get("micro_batch", 64)), 1), 1024)


def _group(path: Path, card: dict[str, Any], input_shape: tuple[int | None, ...]) -> int:
    """Inputs judged as one, as the card says; its input has an axis for them then."""
    group = card.get("group", 1)
    if not isinstance(group, int) or group < 1 or (group > 1 and input_shape[:1] != (group,)):
        raise InputError(
            f"{path} says that it judges groups of {group!r}, and takes inputs {_shape(('N', *input_shape))}: "
            "export it again"
        )
    return group


def _check_interface(path: Path, session: Any) -> None:
    inputs = [value.name for value in session.get_inputs()]
    outputs = {value.name for value in session.get_outputs()}
    thresholds = {value.name for value in session.get_overridable_initializers()}
    if inputs != ["input"] or not outputs.issuperset(OUTPUTS) or "threshold" not in thresholds:
        raise InputError(
            f"{path} is not a sparsense detector: expected the input 'input', a 'threshold' with a default "
            f"and the outputs {OUTPUTS}; found the inputs {inputs} and the outputs {sorted(outputs)}"
        )
    if (kind := session.get_inputs()[0].type) not in DTYPES:
        raise InputError(f"{path} has an input of type {kind}; a detector takes one of {sorted(DTYPES)}")


def _check_finite(batch: NDArray[Any], start: int, *, gaps: bool) -> None:
    flat = batch.reshape(len(batch), -1)
    good = (np.isfinite(flat) | (np.isnan(flat) & gaps)).all(axis=1)
    if not good.all():
        found = "infinity" if gaps else "NaN or infinity"
        raise InputError(f"input {start + int(np.argmin(good))} holds {found}: clean or drop it first")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether the sizes agree; None stands for any size."""
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def _shape(sizes: Sequence[object]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
