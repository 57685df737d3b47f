"""Every differentiation rule, in both orders, against torch on drawn shapes; a rule without a case fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rule_cases import CASES, Draw, check
from rule_cases.settings import RUNS
from sparsense.autodiff.rule import RULES


def test_every_rule_has_a_case() -> None:
    differentiable = {name for name in RULES if any(RULES[name].product(index) for index in range(3))}
    assert differentiable - set(CASES) == set(), "rules without a case in tests/rule_cases"
    assert set(CASES) - differentiable == set(), "cases without a rule"


@pytest.mark.parametrize("op_type", sorted(CASES))
@RUNS
@given(data=st.data())
def test_both_orders_agree_with_torch(op_type: str, data: st.DataObject) -> None:
    for make in CASES[op_type]:
        draw = Draw(data.draw)
        derivatives = check(make(draw), draw)
        used = {node.op_type for node in derivatives.graph}
        assert op_type in used, f"the case does not use {op_type}"
        unruled = {
            node.op_type
            for node in derivatives.graph
            if node.op_type not in RULES
            and any(output.dtype is not None and output.dtype.is_floating_point() for output in node.outputs)
        }
        assert not unruled, f"the rule emits operators without a rule: {unruled}"
