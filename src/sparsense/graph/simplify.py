"""Bring a forward graph to the form that is differentiated: folded by ONNX Runtime, shapes known."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from sparsense.errors import GraphError

FOLDED = re.compile("^(Conv(Bn|Mul|Add)Fusion_(W|B|BN_B|Mul_W|Add_B)_)+")  # prefixes that ONNX Runtime gives


def simplify(model: ir.Model) -> ir.Model:
    """Fold constants and batch norms, drop dead nodes, infer shapes; outputs stay the same up to rounding.

    Folding a batch norm into its convolution leaves `w * dL/dw` unchanged: scaling a filter scales its gradient
    inversely. Raw gradients are not invariant.

    Raises:
        GraphError: ONNX Runtime cannot load the model.
    """
    proto = onnx.shape_inference.infer_shapes(_optimise(ir.to_proto(model)), data_prop=True)
    simplified = ir.from_proto(proto)
    for clean in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        clean(simplified)
    _restore_names(simplified.graph)
    return simplified


def _restore_names(graph: ir.Graph) -> None:
    """Give a weight that a batch norm was folded into its own name back: layers are chosen by it."""
    for name, value in list(graph.initializers.items()):
        plain = FOLDED.sub("", name)
        if plain != name and plain not in graph.initializers:
            value.name = plain


def _optimise(proto: onnx.ModelProto) -> onnx.ModelProto:
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
            first = str(error).strip().splitlines()[0]
            raise GraphError(
                f"loading the model in ONNX Runtime {ort.__version__}: expected a model it can run, found: {first}"
            ) from error
        return onnx.load(path)
