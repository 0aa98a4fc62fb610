"""Numbers as people read them, the same in every command and report: no exponents, no minus before a zero.

significant(0.000243)    0.000243      significant(1234.5)     1,234
fixed(-0.00001, 2)       0.00          percent(0.7261)         72.6 %
usd(0.000243)            $0.000243     usd(1234.5)             $1,234
"""

from decimal import Decimal
from math import isfinite

NONE = "-"
"""What does not exist: no gap to recover, one class alone."""


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """With so many decimals, thousands separated by commas; `sign`: also a plus."""
    if not isfinite(value):
        return NONE
    rounded = round(value, decimals) + 0.0  # a negative zero becomes zero
    return f"{rounded:{'+' if sign else ''},.{decimals}f}"


def significant(value: float, digits: int = 3) -> str:
    """With so many significant digits, and whole from `10 ** (digits - 1)` on."""
    if not isfinite(value):
        return NONE
    if abs(value) >= 10 ** (digits - 1):
        return fixed(value, 0)
    rounded = Decimal(f"{value:.{digits}g}")
    return f"{rounded:f}" if rounded else "0"


def plain(value: float) -> str:
    """Up to six significant digits, as they are typed: 0.01, 0.00001, 1000000."""
    return f"{Decimal(f'{value:g}'):f}"


def percent(share: float, decimals: int = 1) -> str:
    """A share of 1 as a percentage."""
    return f"{fixed(100 * share, decimals)} %" if isfinite(share) else NONE


def usd(value: float, digits: int = 3) -> str:
    """US dollars, with cents between 1 and 100 dollars."""
    if not isfinite(value):
        return NONE
    text = fixed(abs(value), 2) if 1 <= abs(value) < 100 else significant(abs(value), digits)
    return f"-${text}" if value < 0 and text.strip("0.,") else f"${text}"


def between(value: str, low: str, high: str) -> str:
    """A figure with its interval; the unit stands once, after the figure."""
    unit = " %" if value.endswith(" %") else ""
    return f"{value} [{low.removesuffix(unit)}, {high.removesuffix(unit)}]" if value != NONE else NONE
