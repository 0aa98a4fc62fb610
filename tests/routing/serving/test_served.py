""""""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.routing.artefact import Registered
from serve_app.routing.serving.batching import Act
from serve_app.routing.serving.served import ScoringFailed, ServedRouter, ThrottledWarning
from serve_app.types import Query
from tests.routing.fakes import FakeRouter, query, served


class BrokenRouter(FakeRouter):
    """Raises at every query."""

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        raise RuntimeError("no weights")

    def explain(self, query: Query) -> dict[str, float]:
        raise RuntimeError("no weights")


class FarRouter:
    """Answers after `wait_s`; counts what it is asked."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s, self.asked = wait_s, 0

    async def score(self, query: Query) -> float:
        self.asked += 1
        await asyncio.sleep(self.wait_s)
        return min(1.0, len(query.text) / 100)

    async def call(self, query: Query, act: Act) -> float | Mapping[str, float]:
        return await self.score(query) if act == "score" else {"length": 1.0}


def awaited(far: FarRouter, timeout_s: float = 5.0, kept: int = 2, **options: Any) -> ServedRouter:
    registered = Registered(FakeRouter(0.5), 0.5, "far", name="far")  # type: ignore[arg-type]
    return ServedRouter(registered, "far", far.call, timeout_s=timeout_s, kept=kept, **options)


async def test_inline_scores_and_explains_without_waiting() -> None:
    scorer = served(FakeRouter(0.25))
    assert scorer.name == "fake" and await scorer.score(query()) == 0.25
    assert await scorer.explain(query()) == {"bias": 1.5}
    with pytest.raises(StopIteration, match=r"0\.25"):
        scorer.score(query()).send(None)


@pytest.mark.parametrize("value", [math.nan, 1.5, -0.1, math.inf])
async def test_a_score_outside_its_range_is_no_score(value: float) -> None:
    with pytest.raises(ScoringFailed, match=r"\[0, 1\]"):
        await served(FakeRouter(value)).score(query())


async def test_a_broken_router_is_no_score_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    scorer = served(BrokenRouter(0.5))
    for _ in range(5):
        with pytest.raises(ScoringFailed, match="RuntimeError"):
            await scorer.score(query())
    assert await scorer.explain(query()) == {}
    assert caplog.text.count("gave no score") == 1 and "no weights" in caplog.text


def test_warnings_come_back_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    warning = ThrottledWarning("r", clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for second in (0, 1, 2, 29, 30, 31):
            now[0] = float(second)
            assert str(warning.failure(ValueError("x"))) == "ValueError"
    assert caplog.text.count("gave no score") == 2 and "3 times more" in caplog.text


async def test_scores_are_kept_by_text_and_the_oldest_is_forgotten() -> None:
    far = FarRouter()
    scorer = awaited(far)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        assert await scorer.score(query(text)) == len(text) / 100
    assert far.asked == 4  # a, bb, ccc, and bb again, which made place for ccc


async def test_too_late_is_no_score_and_nothing_is_kept() -> None:
    far = FarRouter(wait_s=30.0)
    scorer = awaited(far, timeout_s=0.01)
    with pytest.raises(ScoringFailed, match="in time"):
        await scorer.score(query())
    far.wait_s = 0.0
    assert await scorer.score(query("x")) == 0.01 and far.asked == 2


async def test_the_first_score_alone_may_take_longer() -> None:
    far = FarRouter(wait_s=0.2)
    scorer = awaited(far, 0.02, first_s=30.0)
    assert await scorer.score(query("x")) == 0.01
    with pytest.raises(ScoringFailed, match="in time"):
        await scorer.score(query("xx"))


async def test_a_caller_who_leaves_is_not_a_failure() -> None:
    scoring = asyncio.ensure_future(awaited(FarRouter(wait_s=30.0)).score(query()))
    await asyncio.sleep(0)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring


async def test_texts_that_are_no_utf8_have_a_key() -> None:
    assert await awaited(FarRouter()).score(query("\ud800")) == 0.01


async def test_after_many_late_scores_nobody_waits_for_a_while() -> None:
    now, far = [0.0], FarRouter(wait_s=30.0)
    scorer = awaited(far, 0.001, clock=lambda: now[0])
    for number in range(8):
        with pytest.raises(ScoringFailed):
            await scorer.score(query(f"{number}"))
    assert far.asked == 5
    now[0] = 2.5
    for number in range(3):
        with pytest.raises(ScoringFailed):
            await scorer.score(query(f"again {number}"))
    assert far.asked == 6  # one more was late: it rests again
    now[0], far.wait_s = 5.0, 0.0
    assert [await scorer.score(query("x" * n)) for n in (1, 2, 3)] == [0.01, 0.02, 0.03]


async def test_failures_that_come_at_once_are_asked_again_at_once() -> None:
    class Failing(FarRouter):
        async def score(self, query: Query) -> float:
            self.asked += 1
            raise ConnectionError("away")

    far = Failing()
    scorer = awaited(far)
    for number in range(20):
        with pytest.raises(ScoringFailed, match="ConnectionError"):
            await scorer.score(query(f"{number}"))
    assert far.asked == 20


async def test_another_threshold_keeps_the_remembered_scores() -> None:
    far = FarRouter()
    scorer = awaited(far)
    assert await scorer.score(query("x")) == 0.01
    moved = scorer.at(0.25)
    assert (scorer.threshold, moved.threshold, moved.registered.threshold) == (0.5, 0.25, 0.25)
    assert await moved.score(query("x")) == 0.01 and far.asked == 1
    assert await moved.explain(query("x")) == {"length": 1.0}
