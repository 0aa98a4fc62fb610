"""Goodput limits."""

import pytest

from benchmarks.goodput import meets, parse_goodput


def test_limits_are_read_in_milliseconds() -> None:
    assert parse_goodput("ttft:200 tpot:50 e2el:1000") == {"ttft": 0.2, "tpot": 0.05, "e2el": 1.0}
    assert parse_goodput("") == {}


@pytest.mark.parametrize("text", ["itl:5", "ttft", "ttft:", "ttft:x", "ttft:0", "ttft:-3", "ttft:nan"])
def test_what_is_wrong_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="goodput"):
        parse_goodput(text)


def test_all_limits_must_be_met() -> None:
    limits = {"ttft": 0.2, "e2el": 1.0}
    assert meets({"ttft": 0.2, "e2el": 0.9, "tpot": 9.0}, limits)
    assert not meets({"ttft": 0.2, "e2el": 1.1}, limits)
    assert not meets({"ttft": 0.3, "e2el": 0.5}, limits)


def test_a_tpot_that_is_not_there_is_met() -> None:
    assert meets({"tpot": None}, {"tpot": 0.001})
