"""Branches and loops whose course is known beforehand become plain nodes; others stay, and are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from sparsense.autodiff import differentiate
from sparsense.autodiff.preflight import preflight
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import UnsupportedOperatorError
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.graph.control_flow import MAXIMUM_STEPS

ROWS = Preprocessing("ND", "float32", scale=1.0)
F = TensorProto.FLOAT
WEIGHT = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
INPUTS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
node, typed = helper.make_node, helper.make_tensor_value_info


def network(*nodes: NodeProto, **constants: np.ndarray) -> ForwardGraph:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in {"w": WEIGHT, **constants}.items()]
    graph = helper.make_graph(list(nodes), "g", [typed("x", F, ["N", 3])], [typed("y", F, ["N", "K"])], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    return forward_graph(load_graph(proto), ROWS)


def operators(found: ForwardGraph) -> set[str]:
    return {node.op_type for node in found.model.graph}


def output_and_gradient(found: ForwardGraph) -> list[np.ndarray]:
    """The output, and the gradient of its sum by the input."""
    slope = differentiate(found.op, of=found.output, wrt=[found.target])[found.target]
    return Session(found.model, [found.output, slope])(INPUTS)


def agrees(found: ForwardGraph, formula: Any) -> None:
    x, w = (torch.tensor(array, dtype=torch.float64) for array in (INPUTS, WEIGHT))
    x.requires_grad_()
    y = formula(x, w)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for one, other in zip(output_and_gradient(found), (y.detach(), slope), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-5)


def body(*nodes: NodeProto, states: int = 1, rows: int = 0, inner: tuple[Any, ...] = ()) -> GraphProto:
    """h -> h2 (and row): a loop's body whose condition stays as it is."""
    inputs = [
        typed("i", TensorProto.INT64, []),
        typed("go", TensorProto.BOOL, []),
        *(typed(f"h{k}", F, None) for k in range(states)),
    ]
    outputs = [typed("on", TensorProto.BOOL, []), *(typed(f"o{k}", F, None) for k in range(states + rows))]
    return helper.make_graph([node("Identity", ["go"], ["on"]), *nodes], "body", inputs, outputs, list(inner))


STEP = (node("MatMul", ["h0", "w"], ["m"]), node("Tanh", ["m"], ["o0"]))


def test_a_loop_of_constant_length() -> None:
    found = network(node("Loop", ["n", "yes", "x"], ["y"], "steps", body=body(*STEP)), n=3, yes=True)
    assert "Loop" not in operators(found)
    agrees(found, lambda x, w: torch.tanh(torch.tanh(torch.tanh(x @ w) @ w) @ w))


def test_a_loop_whose_length_is_computed_from_constants() -> None:
    """The number of rows of the weight."""
    nodes = [node("Shape", ["w"], ["s"], start=0, end=1), node("Squeeze", ["s"], ["n"])]
    found = network(*nodes, node("Loop", ["n", "", "x"], ["y"], "steps", body=body(*STEP)))
    agrees(found, lambda x, w: torch.tanh(torch.tanh(torch.tanh(x @ w) @ w) @ w))


def test_a_loop_that_counts_and_collects() -> None:
    """y = sum over steps of (i + 1) * tanh(x w)^(i + 1), with a constant of the body's own."""
    one = numpy_helper.from_array(np.asarray(1, np.int64), "one")
    steps = body(
        *STEP,
        node("Add", ["i", "one"], ["count"]),
        node("Cast", ["count"], ["times"], to=F),
        node("Mul", ["o0", "times"], ["o1"]),
        rows=1,
        inner=(one,),
    )
    loop = node("Loop", ["n", "yes", "x"], ["last", "all"], "steps", body=steps)
    found = network(loop, node("ReduceSum", ["all", "zero"], ["y"], keepdims=0), n=2, yes=True, zero=[0])
    agrees(found, lambda x, w: torch.tanh(x @ w) + 2 * torch.tanh(torch.tanh(x @ w) @ w))


def test_loops_within_loops_without_names() -> None:
    inner = body(node("MatMul", ["h0", "w"], ["q"]), node("Tanh", ["q"], ["o0"]))
    for part in (inner.input, inner.output):
        for value in part:
            value.name = f"inner_{value.name}"
    for step in inner.node:
        step.input[:] = [name if name == "w" else f"inner_{name}" for name in step.input]
        step.output[:] = [f"inner_{name}" for name in step.output]
    outer = body(node("Loop", ["two", "yes", "h0"], ["o0"], body=inner))
    found = network(node("Loop", ["two", "yes", "x"], ["y"], body=outer), two=2, yes=True)
    agrees(found, lambda x, w: torch.tanh(torch.tanh(torch.tanh(torch.tanh(x @ w) @ w) @ w) @ w))


def scan(**attributes: Any) -> NodeProto:
    """A recurrence over the columns of x: h = tanh(h + column), collected."""
    inputs = [typed("h", F, None), typed("column", F, None)]
    outputs = [typed("h2", F, None), typed("row", F, None)]
    steps = [node("Add", ["h", "column"], ["sum"]), node("Tanh", ["sum"], ["h2"]), node("Identity", ["h2"], ["row"])]
    graph = helper.make_graph(steps, "body", inputs, outputs)
    return node("Scan", ["start", "x"], ["last", "y"], "recurrence", body=graph, num_scan_inputs=1, **attributes)


@pytest.mark.parametrize(("backwards", "out_backwards"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_scan(backwards: int, out_backwards: int) -> None:
    begin = node("ReduceSum", ["x", "axis"], ["zero"], keepdims=0)
    nothing = node("Mul", ["zero", "nil"], ["start"])
    ways = {"scan_input_directions": [backwards], "scan_output_directions": [out_backwards]}
    found = network(
        begin, nothing, scan(scan_input_axes=[1], scan_output_axes=[1], **ways), axis=[1], nil=np.float32(0)
    )

    def formula(x: torch.Tensor, _: object) -> torch.Tensor:
        h, rows = torch.zeros(len(x), dtype=x.dtype), []
        for column in range(3)[::-1] if backwards else range(3):
            h = torch.tanh(h + x[:, column])
            rows.append(h)
        return torch.stack(rows[::-1] if out_backwards else rows, 1)

    assert "Scan" not in operators(found)
    agrees(found, formula)


def branches(condition: str) -> NodeProto:
    sides = []
    for name, op_type in (("then_branch", "Tanh"), ("else_branch", "Neg")):
        result = typed(f"{name}_out", F, None)
        sides.append(helper.make_graph([node(op_type, ["x"], [result.name])], name, [], [result]))
    return node("If", [condition], ["h"], "choice", then_branch=sides[0], else_branch=sides[1])


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_of_constant_condition(taken: bool) -> None:
    found = network(branches("c"), node("MatMul", ["h", "w"], ["y"]), c=taken)
    assert "If" not in operators(found)
    agrees(found, lambda x, w: (torch.tanh(x) if taken else -x) @ w)


def test_functions_within_functions_are_inlined() -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    once = helper.make_function("local", "Once", ["a"], ["b"], [node("Tanh", ["a"], ["b"])], opsets)
    nodes = [node("Once", ["a"], ["t"], domain="local"), node("Once", ["t"], ["b"], domain="local")]
    twice = helper.make_function("local", "Twice", ["a"], ["b"], nodes, opsets)
    ends = [typed(name, F, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([node("Twice", ["x"], ["y"], domain="local")], "g", ends[:1], ends[1:])
    found = forward_graph(
        load_graph(helper.make_model(graph, opset_imports=opsets, functions=[once, twice], ir_version=9)), ROWS
    )
    agrees(found, lambda x, _: torch.tanh(torch.tanh(x)))


# --- what stays -------------------------------------------------------------------------------------------------------


def refused(found: ForwardGraph, name: str, kind: str) -> str:
    """Both the pre-flight check and the walk name the node; returns the advice."""
    with pytest.raises(UnsupportedOperatorError, match=rf"node '{name}' \({kind}\)") as error:
        differentiate(found.op, of=found.output, wrt=[found.target])
    assert (error.value.node, error.value.op_type) == (name, kind)
    (obstacle,) = preflight(found)
    assert (obstacle.node, obstacle.op_type) == (name, kind)
    return obstacle.advice


def test_a_branch_chosen_at_run_time_is_refused_by_name() -> None:
    nodes = [
        node("MatMul", ["x0", "w"], ["x"]),
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "nil"], ["c"]),
    ]
    choice = branches("c")
    graph = [*nodes, choice, node("MatMul", ["h", "w"], ["y"])]
    graph[0].input[0] = "x0"
    tensors = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.float32(0), "nil")]
    proto = helper.make_model(
        helper.make_graph(graph, "g", [typed("x0", F, ["N", 3])], [typed("y", F, ["N", 3])], tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    advice = refused(forward_graph(load_graph(proto), ROWS), "choice", "If")
    assert "its condition is computed at run time" in advice


def test_what_a_branch_takes_from_outside_is_no_way_around() -> None:
    """y = x + If(x): the branch reads x by name, not as an input; the other way alone would be a wrong gradient."""
    nodes = [
        node("MatMul", ["x", "w"], ["z"]),
        node("ReduceSum", ["z"], ["s"], keepdims=0),
        node("Greater", ["s", "nil"], ["c"]),
        branches("c"),
        node("Add", ["z", "h"], ["y"]),
    ]
    found = network(*nodes, nil=np.float32(0))
    with pytest.raises(UnsupportedOperatorError, match=r"node 'choice' \(If\)"):
        differentiate(found.op, of=found.output, wrt=[found.target])


def test_a_loop_that_is_too_long_is_refused_by_name() -> None:
    start, loop = node("MatMul", ["x", "w"], ["x0"]), node("Loop", ["n", "yes", "x0"], ["y"], "steps", body=body(*STEP))
    found = network(start, loop, n=MAXIMUM_STEPS + 1, yes=True)
    assert "fixed number of steps" in refused(found, "steps", "Loop")


def test_a_loop_that_may_end_early_is_refused_by_name() -> None:
    early = body(*STEP)
    early.node[0].CopyFrom(node("Less", ["i", "two"], ["on"]))
    start, loop = node("MatMul", ["x", "w"], ["x0"]), node("Loop", ["n", "yes", "x0"], ["y"], "steps", body=early)
    assert "fixed number of steps" in refused(network(start, loop, n=5, yes=True, two=2), "steps", "Loop")
