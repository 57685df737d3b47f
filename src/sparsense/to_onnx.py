"""From a torch network to a forward ONNX graph whose numbers were compared with torch."""

from __future__ import annotations

import ast
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from sparsense import __version__
from sparsense.errors import ExportError
from sparsense.networks.network import Network, example_input

OPSET = 20
BATCHES = (1, 2, 7)
_SPATIAL = {2: "height", 3: "width"}


def export_forward(network: Network, *, dynamic_spatial: bool = False, tolerance: float = 1e-5) -> onnx.ModelProto:
    """The network as one ONNX graph, `input` float32 `[batch, ...]` -> `output`, with a free batch axis.

    Initializers keep the names of the module's parameters and buffers, nodes are named `layer/Operator`, batch
    norms stay as they are. The graph holds no paths or code of the machine that made it.

    Args:
        network: Its module is not changed.
        dynamic_spatial: Leave height and width free as well; the network must allow it.
        tolerance: Largest allowed |onnx - torch| relative to the largest |torch| of a batch, for random inputs
            in batches of 1, 2 and 7 (and of twice the size, where that is free).

    Raises:
        ExportError: The network cannot be traced, or its numbers differ by more than `tolerance`.
    """
    if dynamic_spatial and len(network.input_shape) != 3:
        raise ExportError(
            f"exporting network {network.source!r}: dynamic_spatial needs inputs (C, H, W); found {network.input_shape}"
        )
    model = _trace(network, {0: "batch"} | (_SPATIAL if dynamic_spatial else {}))
    _clean(model, network.source)
    proto = ir.to_proto(model)
    _compare(network, proto, [1, 2] if dynamic_spatial else [1], tolerance)
    return proto


def _trace(network: Network, free_axes: dict[int, str]) -> ir.Model:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _without_inplace(network.module),
                (example_input(network.input_shape),),
                dynamo=True,
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free_axes.items()},),
                input_names=["input"],
                output_names=["output"],
                opset_version=OPSET,
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


def _without_inplace(module: nn.Module) -> nn.Module:
    """A copy whose activations write to new tensors, so that no value of the graph is overwritten."""
    module = copy.deepcopy(module)
    for child in module.modules():
        if getattr(child, "inplace", False) is True:
            child.inplace = False  # type: ignore[assignment]
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log and the warnings of its internals while it runs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
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
            expected = _forward(network.module, inputs)
            (found,) = session.run(None, {"input": inputs.numpy()})
            _check(network, expected, found, tolerance, f"batch {batch}, input {list(inputs.shape)}")


def _random_inputs(network: Network, batch: int, scale: int) -> Tensor:
    """Random inputs of the size that the network is used to: pixels through its preprocessing."""
    shape = network.input_shape[:1] + tuple(scale * size for size in network.input_shape[1:])
    if network.preprocessing.dtype == "float32":
        return example_input(shape, batch=batch, seed=batch + scale)
    factor, shift = (torch.from_numpy(array) for array in network.preprocessing.affine())
    pixels = torch.randint(0, 256, (batch, *shape), generator=torch.Generator().manual_seed(batch + scale))
    return pixels * factor + shift


def _forward(module: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.no_grad():
        output: np.ndarray = module(inputs).numpy()
    return output


def _check(network: Network, expected: np.ndarray, found: np.ndarray, tolerance: float, where: str) -> None:
    doing = f"exporting network {network.source!r}: at {where} "
    if found.shape != expected.shape:
        raise ExportError(f"{doing}torch returns {list(expected.shape)}, the graph {list(found.shape)}")
    worst = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not worst <= tolerance:
        raise ExportError(
            f"{doing}the graph differs from torch by {worst:.3g} relative, allowed are {tolerance:.3g}. Does the "
            "forward pass depend on anything but its input (random numbers, Python values, training mode)?",
            worst=worst,
        )


def _one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options
