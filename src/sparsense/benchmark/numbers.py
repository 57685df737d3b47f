"""Numbers as people read them: rounded, with unit, and a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def integer(value: int | None) -> str:
    """With separators of thousands.

    Example:
        >>> integer(269722)
        '269,722'
    """
    return NONE if value is None else f"{value:,}"


def amount(value: float | None) -> str:
    """Three digits and a decimal prefix.

    Example:
        >>> amount(40_812_544).replace(chr(160), " ")
        '40.8 M'
    """
    return _prefixed(value, ("", "k", "M", "G", "T"))


def size(value: float | None) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(1_080_000).replace(chr(160), " ")
        '1.08 MB'
    """
    return _prefixed(value, ("B", "kB", "MB", "GB", "TB"))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; what merely rounds to 0 or to 100 says so.

    Example:
        >>> [percent(share).replace(chr(160), " ") for share in (0.9134, 0.9999, 1.0, 0.0001)]
        ['91.3 %', '>99.9 %', '100 %', '<0.1 %']
    """
    return NONE if share is None or not math.isfinite(share) else f"{points(share, digits)}{_SPACE}%"


def points(share: float | None, digits: int = 1) -> str:
    """`percent` without its sign, for columns that carry it in their head."""
    if share is None or not math.isfinite(share):
        return NONE
    step = 10.0**-digits
    if share in (0, 1):
        return f"{share:.0%}"[:-1]
    if 0 < share < 1 and f"{share * 100:.{digits}f}" in (f"{0:.{digits}f}", f"{100:.{digits}f}"):
        return f"<{step:.{digits}f}" if share < 0.5 else f">{100 - step:.{digits}f}"
    return f"{share * 100:.{digits}f}".replace("-", _MINUS)


def change(share: float | None, digits: int = 1) -> str:
    """A difference of two shares in percentage points, with its sign.

    Example:
        >>> change(0.0123), change(-0.0123), change(-0.0001)
        ('+1.2', '−1.2', '0.0')
    """
    if share is None or not math.isfinite(share):
        return NONE
    rounded = f"{share * 100:+.{digits}f}"
    return rounded[1:] if float(rounded) == 0 else rounded.replace("-", _MINUS)


def interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """Two shares in percent, in brackets.

    Example:
        >>> interval((0.901, 0.924))
        '[90.1, 92.4]'
    """
    return "" if bounds is None else f"[{points(bounds[0], digits)}, {points(bounds[1], digits)}]"


def change_interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """Two differences in percentage points, in brackets."""
    return "" if bounds is None else f"[{change(bounds[0], digits)}, {change(bounds[1], digits)}]"


def ratio(value: float | None) -> str:
    """A ratio with three digits.

    Example:
        >>> ratio(1.834), ratio(12.34), ratio(0.0512)
        ('1.83×', '12.3×', '0.0512×')
    """
    return NONE if value is None or not math.isfinite(value) else f"{digits(value)}{_TIMES}"


def relative(share: float) -> str:
    """A relative change in percent, with its sign.

    Example:
        >>> relative(-0.481).replace(chr(160), " ")
        '−48.1 %'
    """
    return f"{change(share)}{_SPACE}%"


def digits(value: float | None, count: int = 3) -> str:
    """So many significant digits, without exponent between 0.0001 and a million.

    Example:
        >>> digits(0.41234), digits(123.4), digits(98765.4), digits(2.0)
        ('0.412', '123', '98,765', '2.00')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    exponent = int(f"{value:.{count - 1}e}".partition("e")[2])  # after rounding: 0.9996 is 1.00
    if not -4 <= exponent < 6:
        return small(value)
    return f"{value:,.{max(count - 1 - exponent, 0)}f}".replace("-", _MINUS)


def small(value: float | None) -> str:
    """An error or a probability, with two digits and a short exponent.

    Example:
        >>> small(2.13e-7), small(0.034), small(0.0)
        ('2.1e−7', '0.034', '0')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 1000:
        return f"{value:.2g}".replace("-", _MINUS)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)


def p_value(value: float | None) -> str:
    """A p-value, not below what is worth telling.

    Example:
        >>> p_value(0.0341), p_value(1e-9)
        ('0.034', '<0.001')
    """
    return "<0.001" if value is not None and 0 <= value < 0.001 else small(value)


def _prefixed(value: float | None, units: Sequence[str]) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    number = f"{value:.0f}" if power == 0 else digits(value)
    return f"{number}{_SPACE}{units[power]}".rstrip()
