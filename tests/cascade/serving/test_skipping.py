"""Levels that are skipped: by a router's prior, and by the time they take."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cascade.artefact import load_chain
from serve_app.cascade.base import Level, Needs
from serve_app.cascade.serving.skipping import RESERVE_S, LatencyEstimate, prior_limit
from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.cascade.signals.calibration import LogisticCalibrator
from serve_app.cascade.signals.tokens import MinLogprob, Prior
from serve_app.data.answers import AnswerEvidence
from serve_app.types import TokenLogprob
from tests.cascade.fakes import CALL, Same, chain, engine_of, pools, query, run, told
from tests.cascade.serving.test_streaming import cascade as streaming
from tests.cascade.serving.test_streaming_race import ByPrior

LAB = Path(__file__).parents[3] / "serve_app" / "cascade" / "lab"


def test_a_judge_of_the_prior_alone_rules_out_above_its_threshold() -> None:
    limit = prior_limit(Level("small", Prior(), LogisticCalibrator(1.0, 0.0), 0.8))
    assert limit == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(
    "level",
    [
        Level("large"),
        Level("small", MinLogprob(), LogisticCalibrator(1.0, 0.0), 0.8),
        Level("small", Prior(), LogisticCalibrator(1.0, 0.0), 0.0),
        Level("small", ByPrior(needs=Needs(prior="mine", samples=2)), Same(), 0.9),
    ],
)
def test_where_the_prior_decides_nothing_nobody_is_ruled_out(level: Level) -> None:
    assert prior_limit(level) is None


@cache
def lab_level(name: str, probe: int | None) -> tuple[Level, float | None]:
    level = load_chain(LAB / name).levels[0]
    return level, prior_limit(level, probe)


tokens = st.lists(st.floats(-12.0, 0.0), min_size=1, max_size=12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "probe"), [("whole", None), ("stream", 1)])
@settings(max_examples=150)
@given(logprobs=tokens, above=st.floats(1e-6, 1.0))
def test_no_answer_of_the_labs_weak_level_convinces_above_its_limit(name, probe, logprobs, above) -> None:
    level, limit = lab_level(name, probe)
    assert limit is not None and level.signal is not None and level.calibrator is not None
    shown = logprobs if probe is None else logprobs[:probe]
    said = tuple(TokenLogprob("x", lp, (("x", lp), ("y", min(-1.0, lp)))) for lp in shown)
    prior = min(1.0, limit + above)
    judged = AnswerEvidence(
        query(), "x" * len(said), said, finished=probe is None or len(logprobs) <= probe, prior=prior
    )
    assert level.calibrator.probability(level.signal.value(judged)) < level.threshold + 0.02


@pytest.mark.parametrize(("prior", "asked"), [(0.4, 1), (0.5, 1), (0.6, 0), (None, 1)])
async def test_a_level_that_is_ruled_out_is_not_asked(prior: float | None, asked: int) -> None:
    async def score(router: str, asked: object) -> float | None:
        return prior

    both = pools()
    strategy = CascadeStrategy("cascade", chain(ByPrior(), limits={"small": 0.5}), both, score)
    decision, *_ = told(await run(strategy))
    assert len(engine_of(both["small"]).queries) == asked
    assert ("prior 0.600 > 0.500" in decision.reason) is not bool(asked)
    planned = await strategy.decide(query(), "d")
    assert planned.pool == ("small" if asked else "large")


@pytest.mark.parametrize(("prior", "asked"), [(0.4, 1), (0.6, 0)])
async def test_its_first_tokens_are_not_asked_for_either(prior: float, asked: int) -> None:
    both = pools()
    strategy = streaming(both, ByPrior(), prior=prior, limits={"small": 0.5})
    decision, *_, spent = told(await run(strategy, stream=True))
    assert len(engine_of(both["small"]).queries) == asked
    assert not any(step.wasted for step in spent.steps)
    assert decision.pool == ("small" if asked else "large")


def at(now: float, least_s: float = 0.0) -> LatencyEstimate:
    return LatencyEstimate(least_s, clock=lambda: now)


def test_without_a_deadline_everything_is_allowed() -> None:
    latency = at(0.0, 5.0)
    assert latency.left_s(CALL) is None and latency.allows("large", CALL)


def test_a_call_needs_what_calls_usually_take() -> None:
    latency = at(100.0)
    for _ in range(100):
        latency.add("large", 2.0)
    assert 2.0 <= latency.usual_s("large") < 2.01
    soon, later = replace(CALL, deadline_s=101.9), replace(CALL, deadline_s=102.5)
    assert not latency.allows("large", soon) and latency.allows("large", later)
    assert latency.allows("never-asked", soon)


def test_unsteady_calls_need_more_than_their_mean() -> None:
    latency = at(0.0)
    for i in range(200):
        latency.add("large", 1.0 + i % 2)
    assert latency.usual_s("large") > 2.5


def test_the_least_is_wanted_of_all() -> None:
    latency = at(0.0, 1.0)
    assert not latency.allows("large", replace(CALL, deadline_s=1.0 + RESERVE_S / 2))
    assert latency.allows("large", replace(CALL, deadline_s=1.0 + 2 * RESERVE_S))


def test_time_that_is_over_is_negative() -> None:
    left = at(10.0).left_s(replace(CALL, deadline_s=9.0))
    assert left is not None and left < 0
