"""TTFT, TPOT, ITL and E2E by their definitions."""

import pytest

from benchmarks.record import Record


def record(**changes: object) -> Record:
    fields = {"index": 0, "due_s": 10.0, "sent_s": 10.5, "end_s": 12.0, "outcome": "ok", "status": 200}
    return Record(**{**fields, "token_s": [11.0, 11.25, 11.75], "output_tokens": 3, **changes})  # type: ignore[arg-type]


def test_latencies_count_from_the_scheduled_send() -> None:
    r = record()
    assert r.ttft_s == 1.0
    assert r.e2el_s == 2.0
    assert r.lag_s == 0.5


def test_tpot_is_the_rest_of_the_time_by_the_other_tokens() -> None:
    assert record().tpot_s == pytest.approx((2.0 - 1.0) / 2)
    assert record(output_tokens=5).tpot_s == pytest.approx(1.0 / 4), "tokens by usage, not by events"


def test_tpot_needs_two_tokens() -> None:
    assert record(output_tokens=1).tpot_s is None
    assert record(token_s=[], output_tokens=3).tpot_s is None


def test_itl_is_every_gap() -> None:
    assert record().itl_s == [0.25, 0.5]
    assert record(token_s=[11.0, 11.0]).itl_s == [0.0]
    assert record(token_s=[11.0]).itl_s == []


@pytest.mark.parametrize(
    ("outcome", "status", "before"),
    [("refused", 503, True), ("lost", 0, True), ("timeout", 0, True), ("timeout", 200, False), ("cut", 200, False)],
)
def test_failures_are_before_or_after_the_first_byte(outcome: str, status: int, before: bool) -> None:
    assert record(outcome=outcome, status=status).before_first_byte is before


def test_a_whole_answer_is_no_failure() -> None:
    assert not record().before_first_byte
