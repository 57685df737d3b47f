"""Bring a forward graph to the form that is differentiated: folded by ONNX Runtime, loops unrolled, shapes known."""

from __future__ import annotations

import re
import tempfile
from math import prod
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from sparsense.errors import GraphError, UnsafeFileError
from sparsense.graph.control_flow import unroll
from sparsense.graph.names import name_nodes
from sparsense.reading import first_line, reading

FOLDED = re.compile("^(Conv(Bn|Mul|Add)Fusion_(W|B|BN_B|Mul_W|Add_B)_)+")  # prefixes that ONNX Runtime gives
MAXIMUM_ELEMENTS = 2**29  # of one value for one sample: a small file can ask for any amount of memory
ROUNDS = 8  # of loops within loops


def simplify(model: ir.Model) -> ir.Model:
    """Fold constants and batch norms, unroll loops of constant length, drop dead nodes, infer shapes.

    Outputs stay the same up to rounding. Folding a batch norm into its convolution leaves `w * dL/dw` unchanged:
    scaling a filter scales its gradient inversely. Raw gradients are not invariant.

    Raises:
        GraphError: ONNX Runtime cannot load the model.
        UnsafeFileError: A value inside would be unreasonably large.
    """
    with reading("simplifying the model"):
        simplified = _fold(model)
        for _ in range(ROUNDS):
            if not unroll(simplified.graph):
                break
            simplified = _fold(simplified)
    return simplified


def _fold(model: ir.Model) -> ir.Model:
    proto = onnx.shape_inference.infer_shapes(_optimise(ir.to_proto(model)), data_prop=True)
    simplified = ir.from_proto(proto)
    for clean in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        clean(simplified)
    _restore_names(simplified.graph)
    name_nodes(simplified.graph)  # the parts of an operator that ONNX Runtime wrote out have none
    return simplified


def _restore_names(graph: ir.Graph) -> None:
    """Give a weight that a batch norm was folded into its own name back: layers are chosen by it."""
    for name, value in list(graph.initializers.items()):
        plain = FOLDED.sub("", name)
        if plain != name and plain not in graph.initializers:
            value.name = plain


def _optimise(proto: onnx.ModelProto) -> onnx.ModelProto:
    _check_sizes(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (
            Exception
        ) as error:  # onnxruntime's exceptions share no base class; every one of them means "cannot load"
            raise GraphError(
                f"loading the model in ONNX Runtime {ort.__version__}: expected a model it can run, found: "
                f"{first_line(error)}; export the model with the operators of ONNX itself, in a version it knows"
            ) from error
        return onnx.load(path)


def _check_sizes(proto: onnx.ModelProto) -> None:
    """Constants are folded, and so made, when the model is loaded: no file may ask for all of the memory."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return  # ONNX Runtime says in its own words what is wrong
    for value in inferred.graph.value_info:
        size = prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value"))
        if size > MAXIMUM_ELEMENTS:
            raise UnsafeFileError(
                f"preparing the model: expected values of at most {MAXIMUM_ELEMENTS:,} numbers, found that "
                f"{value.name!r} has {size:,}; export the model with smaller sizes"
            )
