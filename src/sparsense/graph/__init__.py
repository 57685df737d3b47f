"""ONNX graphs: read safely, simplify, extend, run."""

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph, forward_graph
from sparsense.graph.load import load_graph
from sparsense.graph.run import Session, stream
from sparsense.graph.simplify import simplify

__all__ = ["Builder", "ForwardGraph", "Session", "forward_graph", "load_graph", "simplify", "stream"]
