"""What an ONNX file costs to keep, to load and to run: bytes, load time, a timed call, peak memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sparsense.errors import GraphError, InputError

Model = str | Path | bytes
DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


class FileBytes(NamedTuple):
    """The size of a file, as it lies on disk and under gzip."""

    raw: int
    gzip: int


def onnx_call(
    model: Model, *, batch: int = 1, threads: int = 1, outputs: Sequence[str] | None = None, seed: int = 0
) -> Callable[[], object]:
    """A function that runs an ONNX model once on random inputs, for `compare_latency`.

    The number of threads is fixed, and idle threads sleep instead of spinning: the models that are compared
    take turns, and spinning threads of one would slow down the other.

    Args:
        model: A file or its bytes.
        batch: Samples per call; the model needs a free batch axis, or exactly this one.
        threads: Threads within an operator.
        outputs: Which to compute; None takes all.
        seed: Of the inputs.

    Raises:
        GraphError: Another fixed batch, or inputs that cannot be made up.
    """
    session = _session(model, threads)
    feed = random_feed(session, batch, seed)
    names = None if outputs is None else list(outputs)
    return lambda: session.run(names, feed)


def random_feed(session: ort.InferenceSession, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs for every required input: uint8 over its whole range, floats standard normal, integers 0."""
    if batch < 1:
        raise InputError(f"expected a batch of at least 1; got {batch}")
    random = np.random.default_rng(seed)
    return {value.name: _random_input(value, batch, random) for value in session.get_inputs()}


def file_bytes(model: Model) -> FileBytes:
    """Size of a model, raw and under gzip (level 6), which is where zeros in weights show."""
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    return FileBytes(len(data), len(gzip.compress(data, 6, mtime=0)))


def load_time_ms(model: Model, *, threads: int = 1, repeats: int = 5) -> float:
    """Median time to load a model and make it ready to run, in ms; the file is in the system's cache."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        _session(model, threads)
        times.append((perf_counter() - start) * 1e3)
    return median(times)


def peak_memory(models: Sequence[Model], *, batch: int = 1, threads: int = 1) -> list[int | None]:
    """Bytes that loading a model and running it once add to the peak memory of a process that has done nothing else.

    Returns:
        One number per model; None on systems that do not tell (only Linux and macOS do).

    Raises:
        GraphError: A model cannot be run; with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [_on_disk(model, Path(folder, f"{index}.onnx")) for index, model in enumerate(models)]
        command = [sys.executable, "-m", "sparsense.benchmark.peak_memory", str(batch), str(threads), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GraphError(f"measuring the memory of {len(paths)} model(s) at batch {batch} failed: {reason}")
    peaks: list[int | None] = json.loads(done.stdout)
    return peaks


def _on_disk(model: Model, path: Path) -> Path:
    if not isinstance(model, bytes):
        return Path(model)
    path.write_bytes(model)
    return path


def _session(model: Model, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise InputError(f"there is no ONNX file {model}")
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _random_input(value: Any, batch: int, random: np.random.Generator) -> NDArray[Any]:
    shape = [batch if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(value.shape)]
    dtype = DTYPES.get(value.type)
    if dtype is None or not all(isinstance(size, int) for size in shape):
        raise GraphError(
            f"cannot make up the input {value.name!r} of type {value.type} and shape {value.shape}: expected "
            f"{', '.join(DTYPES)} with no free axis but the first"
        )
    if shape and shape[0] != batch:
        raise GraphError(f"input {value.name!r} has the fixed batch {shape[0]}; asked for {batch}")
    if dtype is np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return (random.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)).astype(dtype)
