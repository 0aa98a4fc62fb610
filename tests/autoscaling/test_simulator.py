"""The simulator keeps every query, agrees with queueing theory, and repeats itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.autoscaling.simulator import PoolModel, PoolView, simulate
from serve_app.autoscaling.traces import Trace, Traffic, constant

MODEL = PoolModel(concurrency=2, prefill_s=0.1, token_s=0.01, slowdown=0.1, warm_up_s=3.0, queue=3)
MODELS = {"small": MODEL, "large": MODEL}


@dataclass
class Scripted:
    """A rule that says what it was told to, one target after the other, and keeps what it was shown."""

    script: list[int]
    name: str = "scripted"
    shown: list[Mapping[str, PoolView]] = field(default_factory=list)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        self.shown.append(views)
        return dict.fromkeys(views, self.script[min(int(now_s), len(self.script) - 1)])


def numbered(times: list[float], strong: list[bool], duration_s: float) -> Trace:
    """A trace whose tokens tell queries apart."""
    at_s = np.sort(np.array(times))
    return Trace("numbered", at_s, np.array(strong), np.arange(1.0, len(times) + 1), duration_s)


@dataclass(frozen=True)
class Noting(PoolModel):
    """Notes whom it serves."""

    served: list[float] = field(default_factory=list)

    def times(self, tokens: float, others: int) -> tuple[float, float]:
        assert 0 <= others < self.concurrency
        self.served.append(tokens)
        return PoolModel.times(self, tokens, others)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.booleans()), min_size=1, max_size=120),
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.booleans(),
)
def test_every_query_is_answered_or_refused_once(
    queries: list[tuple[float, bool]], script: list[int], own_queues: bool
) -> None:
    trace = numbered([t for t, _ in queries], [s for _, s in queries], 40.0)
    models = {name: Noting(2, 0.1, 0.01, 0.1, 3.0, 3, own_queues) for name in ("small", "large")}
    outcome = simulate(trace, models, Scripted(script), {"small": 1, "large": 1})
    served = models["small"].served + models["large"].served
    answered = np.isfinite(outcome.ttft_s)
    assert sorted(served) == trace.tokens[answered].tolist()
    assert outcome.shed == len(trace) - len(served)
    assert (outcome.ttft_s[answered] >= MODEL.prefill_s - 1e-9).all()
    assert all(0 <= hours <= 4.01 * 2 * 40 / 3600 for hours in outcome.replica_hours.values())


def erlang_c(servers: int, load: float) -> float:
    """The share of calls that wait in M/M/c (Erlang 1917)."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "replicas"), [(8, 1), (4, 2)])
def test_the_mean_wait_is_that_of_erlang_c(servers: int, replicas: int) -> None:
    rate, places = 6.0, servers * replicas
    model = PoolModel(concurrency=servers, prefill_s=0.0, token_s=0.01, slowdown=0.0, queue=10**6)
    trace = Traffic(constant(rate), constant(0.0), rate).draw("steady", 12_000.0, 3)
    outcome = simulate(
        trace, {"small": model, "large": model}, Scripted([replicas]), {"small": replicas, "large": replicas}
    )
    expected = erlang_c(places, rate) / (places - rate)  # calls last a second on average
    assert outcome.shed == 0
    assert np.mean(outcome.ttft_s) == pytest.approx(expected, rel=0.1)
    assert np.mean(outcome.ttft_s > 1e-9) == pytest.approx(erlang_c(places, rate), rel=0.05)


def test_a_replica_answers_after_its_warm_up_and_costs_from_its_wish() -> None:
    trace = numbered([0.5], [True], 20.0)
    outcome = simulate(trace, MODELS, Scripted([0, 1]), {"small": 0, "large": 0})
    assert outcome.ttft_s[0] == pytest.approx(1.0 + MODEL.warm_up_s - 0.5 + MODEL.prefill_s)
    assert outcome.replica_hours["large"] == pytest.approx(19.0 / 3600)


def test_a_leaving_replica_ends_its_calls_first() -> None:
    long = replace(MODEL, token_s=5.0)  # five seconds
    models = {"small": MODEL, "large": long}
    outcome = simulate(numbered([0.5], [True], 20.0), models, Scripted([1, 0]), {"small": 1, "large": 1})
    assert np.isfinite(outcome.ttft_s[0])
    assert outcome.replica_hours["large"] == pytest.approx((0.5 + 5.1) / 3600)


def test_calls_beyond_the_queue_are_refused() -> None:
    slow = replace(MODEL, token_s=10.0)
    trace = numbered([1.0 + i / 100 for i in range(9)], [False] * 9, 2.0)
    outcome = simulate(trace, {"small": slow, "large": slow}, Scripted([1]), {"small": 1, "large": 0})
    assert outcome.shed == 9 - slow.concurrency - slow.queue
    assert outcome.goodput(1e9) == pytest.approx(5 / 9)


def test_who_waits_at_a_replica_stays_with_it() -> None:
    """Four calls of four seconds at the only replica of two places; another comes up three seconds later."""
    trace = numbered([1.0] * 4, [False] * 4, 20.0)
    found = {}
    for own_queues in (False, True):
        model = replace(MODEL, prefill_s=4.0, token_s=0.0, slowdown=0.0, own_queues=own_queues)
        models = {"small": model, "large": model}
        found[own_queues] = simulate(trace, models, Scripted([1, 2]), {"small": 1, "large": 1}).ttft_s.tolist()
    assert found[False] == [4.0, 4.0, 3.0 + 4.0, 3.0 + 4.0]
    assert found[True] == [4.0, 4.0, 4.0 + 4.0, 4.0 + 4.0]


def test_who_waited_for_any_replica_goes_to_the_first_that_is_up() -> None:
    model = replace(MODEL, own_queues=True)
    trace = numbered([0.5] * 3, [False] * 3, 20.0)
    outcome = simulate(trace, {"small": model, "large": model}, Scripted([0, 1]), {"small": 0, "large": 0})
    assert outcome.shed == 0 and outcome.ttft_s[0] == pytest.approx(3.6)
    assert outcome.ttft_s[2] > outcome.ttft_s[0] + 0.1


def test_calls_slow_each_other_down() -> None:
    outcome = simulate(numbered([1.0, 1.01], [False] * 2, 5.0), MODELS, Scripted([1]), {"small": 1, "large": 0})
    assert outcome.ttft_s == pytest.approx([0.1, 0.11])


def test_a_rule_sees_reports_that_are_a_second_old() -> None:
    rule = Scripted([1])
    simulate(numbered([2.5] * 5, [False] * 5, 8.0), MODELS, rule, {"small": 1, "large": 1})
    seen = [views["small"].requested_per_s for views in rule.shown]
    assert seen[3] == 0 and seen[4] > 0
    assert [views["small"].at_s for views in rule.shown[1:4]] == [0.0, 1.0, 2.0]


def test_the_same_trace_gives_the_same_run() -> None:
    trace = Traffic(constant(5.0), constant(0.5), 5.0).draw("again", 60.0, 7)
    script = [i % 3 for i in range(60)]
    one, two = (simulate(trace, MODELS, Scripted(script), {"small": 1, "large": 1}) for _ in range(2))
    np.testing.assert_array_equal(one.ttft_s, two.ttft_s)
    assert one.replica_hours == two.replica_hours


def test_figures_of_nobody() -> None:
    trace = numbered([1.0], [False], 3.0)
    outcome = simulate(trace, MODELS, Scripted([1]), {"small": 1, "large": 1})
    assert math.isnan(outcome.ttft(0.5, True))
    empty = Trace("empty", np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0), 3.0)
    assert simulate(empty, MODELS, Scripted([1]), {"small": 1, "large": 1}).goodput(1.0) == 1.0
