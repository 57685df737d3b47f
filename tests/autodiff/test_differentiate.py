"""The walk: paths, sums where branches meet, refusals by name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.autodiff import differentiate
from sparsense.autodiff.differentiate import ancestors
from sparsense.errors import GraphError, UnsupportedOperatorError
from sparsense.graph.build import Builder
from sparsense.graph.run import Session


def start(*shape: object) -> tuple[Builder, ir.Value]:
    x = ir.val("x", ir.DataType.FLOAT, ["N", *shape])
    return Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="walk")), x


def run(op: Builder, outputs: list[ir.Value], x: np.ndarray) -> list[np.ndarray]:
    return Session(ir.Model(op.graph, ir_version=10), outputs, threads=1)(x.astype(np.float32))


def test_branches_meet() -> None:
    """y = x^2 + 3 x: both uses of x count."""
    op, x = start(2)
    y = op.Add(op.Mul(x, x), op.Mul(x, 3.0))
    (gradient,) = run(op, [differentiate(op, of=y, wrt=[x])[x]], np.asarray([[1.0, -2.0]]))
    np.testing.assert_allclose(gradient, [[5, -1]])


def test_seed_weighs_the_sum() -> None:
    op, x = start(2)
    y = op.Mul(x, x)
    seed = op.constant(np.asarray([[1.0, 10.0]], np.float32))
    (gradient,) = run(op, [differentiate(op, of=y, wrt=[x], seed=seed)[x]], np.asarray([[1.0, -2.0]]))
    np.testing.assert_allclose(gradient, [[2, -40]])


@pytest.mark.parametrize("order", [2.0, 5.0, 2.5])
def test_a_norm_of_zeros_that_a_floor_hides_has_the_gradient_zero(order: float) -> None:
    """A root is infinitely steep at 0, and 0 times that is no number."""
    op, x = start(2)
    total = op.ReduceSum(op.Pow(op.Abs(x), order), [1], keepdims=0)
    y = op.Log(op.Max(op.Sqrt(total) if order == 2 else op.Pow(total, 1 / order), 1e-30))
    rows = np.asarray([[0.0, 0.0], [3.0, 0.0]])
    (gradient,) = run(op, [differentiate(op, of=y, wrt=[x])[x]], rows)
    np.testing.assert_allclose(gradient, [[0, 0], [1 / 3, 0]], rtol=1e-5)


def test_of_itself_is_the_seed() -> None:
    op, x = start(2)
    seed = op.Mul(x, 2.0)
    assert differentiate(op, of=x, wrt=[x], seed=seed)[x] is seed


def test_rows_belong_to_samples() -> None:
    """The gradient of a batch is the stack of the gradients of its samples."""
    op, x = start(3)
    y = op.Tanh(op.MatMul(x, np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)))
    gradient = differentiate(op, of=y, wrt=[x])[x]
    batch = np.random.default_rng(1).normal(size=(5, 3))
    (together,) = run(op, [gradient], batch)
    alone = [run(op, [gradient], row[None])[0] for row in batch]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-6)


def test_a_linear_step_that_two_branches_share_runs_once() -> None:
    """Two strided convolutions of one input: their gradients are woven back together, not one by one."""
    op, x = start(8, 8, 8)
    random = np.random.default_rng(0)
    wide, narrow = random.normal(size=(8, 8, 3, 3)), random.normal(size=(8, 8, 1, 1))
    one = op.Conv(x, wide.astype(np.float32), pads=[1] * 4, strides=[2, 2])
    two = op.Conv(x, narrow.astype(np.float32), strides=[2, 2])
    y, seed = op.Add(one, two), random.normal(size=(2, 8, 4, 4)).astype(np.float32)
    gradient = differentiate(op, of=y, wrt=[x], seed=op.constant(seed))[x]
    assert [node.op_type for node in ancestors(gradient)].count("Conv") == 1  # back into the blocked layout
    values = random.normal(size=(2, 8, 8, 8))
    forward, found = run(op, [y, gradient], values)
    assert (found * values).sum() == pytest.approx((forward * seed).sum(), rel=1e-4)  # <A^T u, v> = <u, A v>


def test_an_independent_value_is_named() -> None:
    op, x = start(2)
    y = op.Neg(x)
    other = op.Exp(x)
    with pytest.raises(ValueError, match=f"{y.name!r}: it does not depend on {other.name!r}"):
        differentiate(op, of=y, wrt=[other])


def test_steps_end_gradients() -> None:
    op, x = start(2)
    with pytest.raises(ValueError, match="does not depend on 'x'"):
        differentiate(op, of=op.Sign(x), wrt=[x])


def test_an_operator_without_a_rule_is_named() -> None:
    op, x = start(2, 2)
    y = op.Det(x)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'Det' \(Det\) has no differentiation rule") as caught:
        differentiate(op, of=y, wrt=[x])
    assert (caught.value.node, caught.value.op_type) == ("Det", "Det")


def test_an_input_without_a_rule_is_named() -> None:
    """A convolution whose weight is computed from the input: no gradient of the weight over a whole batch."""
    op, x = start(4)
    kernel = op.Reshape(op.ReduceMean(x, [0], keepdims=0), [1, 1, 4])
    y = op.Conv(op.Unsqueeze(x, [1]), kernel, kernel_shape=[4])
    with pytest.raises(UnsupportedOperatorError, match="no differentiation rule for its input 1"):
        differentiate(op, of=y, wrt=[x])


def test_an_operator_of_another_domain_is_named() -> None:
    op, x = start(2)
    node = ir.node("Secret", [x], domain="com.example", name="mystery")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "secret", x.type, x.shape
    op.graph.append(node)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'mystery' \(com.example.Secret\)"):
        differentiate(op, of=op.Neg(node.outputs[0]), wrt=[x])


def test_a_second_output_without_a_rule_is_named() -> None:
    op, x = start(4)
    _, mean = op.call("LayerNormalization", x, np.ones(4, np.float32), outputs=2)
    with pytest.raises(UnsupportedOperatorError, match="second output"):
        differentiate(op, of=op.Neg(mean), wrt=[x])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda op, x: op.Dropout(x, np.asarray(0.5, np.float32), np.asarray(True)), "training mode"),
        (lambda op, x: op.Einsum(op.MatMul(op.Unsqueeze(x, [2]), op.Unsqueeze(x, [1])), equation="nii->n"), "diagonal"),
        (lambda op, x: op.ReduceMean(x, np.zeros(0, np.int64), noop_with_empty_axes=1), "reduces nothing"),
        (
            lambda op, x: op.ScatterElements(
                x, np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), reduction="mul"
            ),
            "combines by 'mul'",
        ),
    ],
)
def test_a_form_without_a_rule_is_refused(make: object, problem: str) -> None:
    op, x = start(3)
    with pytest.raises(UnsupportedOperatorError, match=problem):
        differentiate(op, of=op.Exp(make(op, op.Exp(x))), wrt=[x])  # type: ignore[operator]


def test_an_unknown_rank_is_named() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="unknown"))
    with pytest.raises(GraphError, match="expected a known rank, found none for value"):
        differentiate(op, of=op.Exp(x), wrt=[x])
