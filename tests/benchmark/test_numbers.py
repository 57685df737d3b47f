import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsense.benchmark import numbers

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
SHOWN = [
    (numbers.amount, 999, "999"),
    (numbers.amount, 999.6, "1.00 k"),
    (numbers.amount, 123_456, "123 k"),
    (numbers.amount, 2.5e9, "2.50 G"),
    (numbers.amount, 7e16, "70,000 T"),
    (numbers.size, 0, "0 B"),
    (numbers.size, 12_345, "12.3 kB"),
    (numbers.percent, 0, "0 %"),
    (numbers.percent, 0.05, "5.0 %"),
    (numbers.percent, 0.99951, ">99.9 %"),
    (numbers.points, -0.123, MINUS + "12.3"),
    (numbers.change, 0.0, "0.0"),
    (numbers.change, 0.00049, "0.0"),
    (numbers.digits, 0.00012345, "0.000123"),
    (numbers.digits, 0.000012345, f"1.2e{MINUS}5"),
    (numbers.digits, -2.5, MINUS + "2.50"),
    (numbers.digits, 1234567, "1.2e6"),
    (numbers.digits, 0, "0"),
    (numbers.small, 12.34, "12"),
    (numbers.ratio, 1, "1.00\N{MULTIPLICATION SIGN}"),
    (numbers.p_value, 0.5, "0.5"),
]


@pytest.mark.parametrize(("show", "value", "text"), SHOWN)
def test_examples(show, value, text):
    assert show(value).replace("\N{NO-BREAK SPACE}", " ") == text


ALL = [numbers.integer, numbers.amount, numbers.size, numbers.percent, numbers.points, numbers.change, numbers.ratio,
       numbers.digits, numbers.small, numbers.p_value]  # fmt: skip


@pytest.mark.parametrize("show", ALL)
def test_what_is_not_known_is_a_dash(show):
    assert show(None) == DASH


@pytest.mark.parametrize("show", ALL[1:])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_nan_is_ever_printed(show, value):
    assert show(value) == DASH


def test_intervals():
    assert numbers.interval((0.1, 1.0)) == "[10.0, 100]"
    assert numbers.change_interval((-0.01, 0.02)) == f"[{MINUS}1.0, +2.0]"
    assert numbers.interval(None) == numbers.change_interval(None) == ""


@given(st.floats(1e-12, 1e12))
def test_rounding_keeps_the_value_to_its_digits(value):
    for show, error in ((numbers.digits, 0.05), (numbers.small, 0.05)):
        assert float(show(value).replace(",", "").replace(MINUS, "-")) == pytest.approx(value, rel=error)


@given(st.floats(0, 1))
def test_shares_that_are_not_0_or_1_do_not_look_like_it(share):
    text = numbers.points(share)
    assert (text == "0") == (share == 0)
    assert (text == "100") == (share == 1)
    assert re.fullmatch(r"[<>]?\d+(\.\d)?", text)
