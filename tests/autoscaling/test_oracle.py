"""The oracle needs what is open at once, early enough, and nobody as good is cheaper."""

import numpy as np
import pytest

from serve_app.autoscaling.comparison import ORACLE, Scenario, compare
from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.rules import OracleRule
from serve_app.autoscaling.simulator import PoolModel, simulate
from serve_app.autoscaling.traces import STANDARD, Trace, Traffic, constant, standard_traces

MODEL = PoolModel(concurrency=2, prefill_s=0.5, token_s=0.5, slowdown=0.0, warm_up_s=4.0)
MODELS = {"small": MODEL, "large": MODEL}
LIMITS = {"small": PoolLimits(0, 9, 2), "large": PoolLimits(0, 9, 2)}


def test_need_is_what_is_open_on_average_as_long_as_it_takes_to_start_one() -> None:
    # five calls of a second each: from 20.0 to 21.0, 20.1 to 21.1, ..., so 4.0 open on average in second 20, 1.0 in 21
    at_s = np.array([20.0, 20.1, 20.2, 20.3, 20.4])
    trace = Trace("five at once", at_s, np.ones(5, dtype=bool), np.ones(5), 40.0)
    oracle = OracleRule(trace, MODELS, LIMITS)
    need = [oracle.need("large", float(second)) for second in range(40)]
    assert need == [0] * 14 + [2] * 7 + [1] + [0] * 18  # two calls in a replica; six seconds ahead
    assert all(oracle.need("small", float(second)) == 0 for second in range(40))


def test_nobody_waits_for_long_under_the_oracle() -> None:
    trace = Traffic(constant(3.0), constant(0.5), 3.0, mean_tokens=4.0).draw("t", 200.0, 1)
    rule = OracleRule(trace, MODELS, LIMITS)
    outcome = simulate(trace, MODELS, rule, {name: rule.need(name, 0.0) for name in MODELS})
    assert outcome.shed == 0 and outcome.ttft_s.max() < MODEL.prefill_s + 2.0
    assert outcome.ttft(0.5) == pytest.approx(MODEL.prefill_s)


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDARD)
def test_no_rule_as_good_is_cheaper(name: str) -> None:
    """But for 5 %, which a replica kept one too many can save in warm-ups on a trace as short as this."""
    trace = next(t for t in standard_traces(300.0, 10.0, 4) if t.name == name)
    models = {"small": PoolModel(16, 0.03, 0.004), "large": PoolModel(8, 0.15, 0.02, warm_up_s=20.0)}
    limits = {"small": PoolLimits(1, 20, 16), "large": PoolLimits(0, 40, 8, warm_up_s=20.0)}
    found = compare([trace], Scenario(models, limits, shares=(0.25, 0.625, 0.875), holds_s=()))
    oracle = found.rules[ORACLE]
    assert oracle.goodput >= 0.999
    rivals = [*found.rules.values(), *found.frontier.values()]
    assert [f for f in rivals if f.goodput >= oracle.goodput and f.large_hours < 0.95 * oracle.large_hours] == []
