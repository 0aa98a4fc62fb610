"""Numbers for people: no exponent and no minus before a zero, whatever the value."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.numbers import NONE, between, fixed, percent, significant, usd

_PLAIN = re.compile(r"[-+]?\$?\d{1,3}(,?\d{3})*(\.\d+)?( %)?")


@given(st.floats(-1e12, 1e12), st.integers(1, 6))
def test_every_number_is_plain(value, digits):
    shown = [significant(value, digits), fixed(value, digits), percent(value, digits), usd(value, digits)]
    shown.append(fixed(value, digits, sign=True))
    for text in shown:
        assert _PLAIN.fullmatch(text), text
        assert not re.fullmatch(r"-\$?0(\.0*)?( %)?", text), text


@given(st.floats(1e-9, 1e9), st.integers(1, 6))
def test_significant_digits_are_kept(value, digits):
    assert float(significant(value, digits).replace(",", "")) == pytest.approx(value, rel=0.6 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (significant(0.000243), "0.000243"),
        (significant(320.0, 2), "320"),
        (significant(1234.5), "1,234"),
        (significant(0.0), "0"),
        (significant(0.5, 6), "0.5"),
        (fixed(-0.0001, 2), "0.00"),
        (fixed(0.25, 2, sign=True), "+0.25"),
        (percent(-0.00001, 2), "0.00 %"),
        (percent(0.7261), "72.6 %"),
        (usd(0.00000125), "$0.00000125"),
        (usd(45.6), "$45.60"),
        (usd(-1234.5), "-$1,234"),
        (usd(0.0), "$0"),
        (between(percent(0.5), percent(0.4), percent(0.6)), "50.0 % [40.0, 60.0]"),
    ],
)
def test_examples(shown, expected):
    assert shown == expected


@pytest.mark.parametrize("form", [significant, usd, percent, lambda value: fixed(value, 2)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_does_not_exist_is_a_dash(form, value):
    assert form(value) == NONE and between(form(value), NONE, NONE) == NONE
