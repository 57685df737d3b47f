"""From a torch network to a forward ONNX graph whose numbers were compared with torch."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from sparsense import __version__
from sparsense.errors import ExportError
from sparsense.networks.network import Network, example_input

OPSET = 20
TINY = float(np.finfo(np.float32).tiny)
BATCHES = (1, 2, 7)
_SPATIAL = {2: "height", 3: "width"}


def export_forward(
    network: Network, *, dynamic_spatial: bool = False, tolerance: float = 1e-5, opset: int | None = None
) -> onnx.ModelProto:
    """The network as one ONNX graph, `input` float32 `[batch, ...]` -> `output`, with a free batch axis.

    Initializers keep the names of the module's parameters and buffers, nodes are named `layer/Operator`, batch
    norms stay as they are. The graph holds no paths or code of the machine that made it.

    Args:
        network: Its module is not changed.
        dynamic_spatial: Leave height and width free as well; the network must allow it.
        tolerance: Largest allowed |onnx - torch| relative to the largest |torch| of a batch, for random inputs
            in batches of 1, 2 and 7 (and of twice the size, where that is free), where torch sees them one by one.
        opset: Of the default domain, at least 18; None: 20.

    Raises:
        ExportError: The network cannot be traced, or its numbers differ by more than `tolerance`.
    """
    if dynamic_spatial and len(network.input_shape) != 3:
        raise ExportError(
            f"exporting network {network.source!r}: dynamic_spatial needs inputs (C, H, W); found {network.input_shape}"
        )
    model = _trace(network, {0: "batch"} | (_SPATIAL if dynamic_spatial else {}), opset or OPSET)
    _clean(model, network.source)
    proto = ir.to_proto(model)
    _compare(network, proto, [1, 2] if dynamic_spatial else [1], tolerance)
    return proto


def _trace(network: Network, free_axes: dict[int, str], opset: int) -> ir.Model:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network.module,
                (example_input(network.input_shape),),
                dynamo=True,
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free_axes.items()},),
                input_names=["input"],
                output_names=["output"],
                opset_version=opset,
                external_data=False,
                optimize=False,
                verbose=False,
            )
    except OnnxExporterError as error:
        raise ExportError(
            f"exporting network {network.source!r}: torch could not trace it with free axes "
            f"({', '.join(free_axes.values())}): {_reason(error)}"
        ) from error
    return cast(torch.onnx.ONNXProgram, program).model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter logs, prints and warns of while it runs; its errors carry all that matters."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def _clean(model: ir.Model, name: str) -> None:
    """Fold what the exporter computes from constants and free axes; take out names and notes of its making."""
    optimizer.fold_constants(model)
    rewriter.rewrite(model, [materialize_reshape_shape_rule])
    _name_nodes(model.graph)
    for clean in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        clean(model)
    graph = model.graph
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs):
        value.metadata_props.clear()
    graph.name, model.producer_name, model.producer_version = name, "sparsense", __version__


def _name_nodes(graph: ir.Graph) -> None:
    """`layer1.0.conv1/Conv` instead of `node_conv2d_7`; numbered where a layer has several of a kind."""
    seen: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        layer = scopes[-2] if len(scopes) > 1 else ""
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _compare(network: Network, proto: onnx.ModelProto, scales: list[int], tolerance: float) -> None:
    """Refuse a graph that computes something else than the module, on inputs that the exporter has not seen."""
    session = ort.InferenceSession(proto.SerializeToString(), _one_thread(), providers=["CPUExecutionProvider"])
    for batch in BATCHES:
        for scale in scales:
            inputs = _random_inputs(network, batch, scale)
            (found,) = session.run(None, {"input": inputs.numpy()})
            expected = _one_by_one(network.module, inputs)
            # a reconstruction is compared with its input: how small it is itself says nothing (a sigmoid may be all 0)
            seen = inputs.abs().max().item() if network.task == "reconstruction" else 0.0
            _check(network, expected, found, tolerance, scale=max(float(np.abs(expected).max()), seen, TINY))


def _random_inputs(network: Network, batch: int, scale: int) -> Tensor:
    """Random inputs of the size that the network is used to: pixels through its preprocessing."""
    shape = network.input_shape[:1] + tuple(scale * size for size in network.input_shape[1:])
    if network.preprocessing.dtype == "float32":
        return example_input(shape, batch=batch, seed=batch + scale)
    factor, shift = (torch.from_numpy(array) for array in network.preprocessing.affine())
    pixels = torch.randint(0, 256, (batch, *shape), generator=torch.Generator().manual_seed(batch + scale))
    return pixels * factor + shift


@torch.no_grad()
def _one_by_one(module: nn.Module, inputs: Tensor) -> NDArray[np.float32]:
    """Outputs sample by sample: a detector relies on samples that do not know of each other."""
    return torch.cat([module(sample[None]) for sample in inputs]).numpy()


def _check(
    network: Network, expected: NDArray[np.float32], found: NDArray[np.float32], tolerance: float, *, scale: float
) -> None:
    doing = f"exporting network {network.source!r}: for {len(found)} random inputs"
    if found.shape != expected.shape:
        raise ExportError(
            f"{doing} the graph returns {list(found.shape)}, torch {list(expected.shape)} sample by sample"
        )
    worst = float(np.abs(found - expected).max()) / scale
    if not worst <= tolerance:
        raise ExportError(
            f"{doing} the graph differs from torch by {worst:.3g} relative, allowed are {tolerance:.3g}. Does the "
            "forward pass depend on anything but its own sample (others of the batch, random numbers, Python values)?",
            worst=worst,
        )


def _one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options
