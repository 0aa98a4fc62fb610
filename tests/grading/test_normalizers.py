"""The forms in which answers are compared."""

import pytest

from serve_app.errors import ConfigError
from serve_app.grading.normalizers import NORMALIZERS, normalizer

SAME = [
    ("exact", " 4\n", "4"),
    ("text", "The  Answer.", "the answer"),
    ("number", "so it is $70,000", "70000.0"),
    ("choice", "(B)", "The answer is B."),
    ("literal", "'xy'", '"xy"'),
    ("literal", "[1,2]", "[1, 2]"),
    ("literal", "xy", "'xy'"),
    ("last_line", "first this\nThen 4.\n\n", "then 4"),
    ("boxed", r"thus \boxed{\frac{1}{2}}.", r"\boxed{ \frac{1}{2} }"),
    ("boxed", "no box\n12", "12"),
]
DIFFERENT = [
    ("exact", "Four", "four"),
    ("text", "-5", "5"),
    ("number", "4", "-4"),
    ("choice", "A", "B"),
    ("literal", "'1'", "1"),
    ("literal", "True", "true"),
    ("last_line", "1\n2", "2\n1"),
    ("boxed", r"\boxed{1}", r"\boxed{2}"),
]


@pytest.mark.parametrize(("name", "one", "other"), SAME)
def test_say_the_same(name: str, one: str, other: str) -> None:
    assert normalizer(name)(one) == normalizer(name)(other) != ""


@pytest.mark.parametrize(("name", "one", "other"), DIFFERENT)
def test_say_different_things(name: str, one: str, other: str) -> None:
    assert normalizer(name)(one) != normalizer(name)(other)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_any_text_has_a_form(name: str) -> None:
    for text in ("", " ", "\0", "(" * 500, "\\boxed{", "é" * 3000, "1" * 5000, "{[('"):
        assert isinstance(normalizer(name)(text), str)


def test_what_cannot_be_read_is_compared_as_text() -> None:
    assert (
        normalizer("number")("No solution.") == "no solution" and normalizer("choice")("None of them") == "none of them"
    )


def test_an_unknown_form() -> None:
    with pytest.raises(ConfigError, match="'luck' is no form of answers; give one of exact"):
        normalizer("luck")
