"""Plans fitted on synthetic answers: what is chosen, what is promised, and what is refused."""

import numpy as np
import pytest

from serve_app.ensemble.artefact import version_of
from serve_app.ensemble.fitting.answers import Answers, best_form
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.plan import EnsembleFit, fit_plan
from serve_app.ensemble.fitting.search import EnsembleOptions
from serve_app.ensemble.fitting.shapes import replay
from serve_app.ensemble.fitting.worth import NotWorthIt
from serve_app.errors import ConfigError, DataError, InsufficientData
from tests.ensemble.fitting.answered import answered, drawn

COST = {"a": 1e-5, "b": 1e-5, "c": 1e-5, "large": 1e-3}
EQUAL = {"a": 0.75, "b": 0.75, "c": 0.75, "large": 0.92}


def test_agreement_saves_strong_calls_and_the_promise_holds() -> None:
    train, test = answered(drawn(600, EQUAL), COST), answered(drawn(600, EQUAL, seed=1), COST)
    fitted = fit_plan(train, Goal(strong_share=0.4))
    plan, found = fitted.plan, fitted.plan.expected
    assert plan.version == version_of(plan) and plan.select == "vote" and fitted.target == "strong-share=0.4"
    assert len(plan.rounds[0].calls) >= 2 and [call.name for call in plan.rounds[-1].calls] == ["large"]
    outcome = replay(plan, Answers.of(test, form=plan.normalizer), "large")
    assert found["quality"] > 0.9 and found["strong_share"] <= 0.44
    assert outcome.quality.mean() >= found["quality_low"] and outcome.strong.mean() <= 0.46
    assert outcome.quality.mean() > test.pools["a"].quality.mean() + 0.1
    spent = outcome.cost_usd.mean()
    assert spent == pytest.approx(len(plan.rounds[0].calls) * 1e-5 + outcome.strong.mean() * 1e-3), "every call is paid"
    assert found["share:large"] == pytest.approx(found["strong_share"]) and found["share:a"] in (
        1.0,
        pytest.approx(1.0),
    )


def test_one_member_that_is_far_better_is_recommended_instead() -> None:
    data = answered(drawn(400, {"a": 0.3, "b": 0.3, "good": 0.95}), {"a": 1e-4, "b": 1e-4, "good": 1e-4})
    with pytest.raises(DataError, match=r"than good alone, which costs 0\.0001 USD .* Use good"):
        fit_plan(data, Goal(budget_usd=3e-4))


def test_members_that_err_together_are_one_vote() -> None:
    right = drawn(600, {"a": 0.7, "c": 0.75, "large": 0.95})
    copies = {"a": right["a"], "b": right["a"], "c": right["c"], "large": right["large"]}
    same = {name: np.arange(600) + (0 if name in "ab" else 5000 if name == "c" else 9000) for name in copies}
    fitting = EnsembleFit(answered(copies, COST, same), EnsembleOptions(like_queries=False))
    stage = fitting.votes.judged([call for call in _calls("a", "b", "c")]).stage
    said = dict(zip(stage.members, stage.weights[:3], strict=True))
    alone = fitting.votes.judged(_calls("a", "c")).stage
    assert said["a"] == pytest.approx(said["b"], abs=1e-6)
    assert said["a"] + said["b"] < 1.3 * alone.weights[0], "two copies weigh about as much as one"


def test_more_samples_of_one_member() -> None:
    n, rng = 500, np.random.default_rng(3)
    hard = rng.random(n) < 0.3
    p = np.where(hard, 0.25, 0.9)[:, None]
    right = {"small": rng.random((n, 5)) < p, "large": rng.random((n, 5)) < 0.95}
    data = answered(right, {"small": 1e-6, "large": 1e-3})
    fitted = fit_plan(data, Goal(strong_share=0.4), EnsembleOptions(samples=5))
    assert [(c.pool, c.samples) for c in fitted.plan.rounds[0].calls] == [("small", 5)]
    assert fitted.plan.expected["quality"] > right["small"][:, 0].mean() + 0.1


def test_the_cheapest_plan_that_reaches_a_quality() -> None:
    data = answered(drawn(600, EQUAL), COST)
    low, high = (fit_plan(data, Goal(quality=q)).plan.expected for q in (0.82, 0.95))
    assert low["quality"] >= 0.82 and high["quality"] >= 0.95 and low["cost_usd"] < high["cost_usd"]
    with pytest.raises(ConfigError, match=r"quality=0\.999 cannot be met"):
        fit_plan(data, Goal(quality=0.999))


def test_a_budget_is_kept() -> None:
    fitted = fit_plan(answered(drawn(600, EQUAL), COST), Goal(budget_usd=3e-4))
    test = Answers.of(answered(drawn(2000, EQUAL, seed=5), COST), form=fitted.plan.normalizer)
    outcome = replay(fitted.plan, test, "large")
    assert outcome.cost_usd.mean() <= 3e-4 and fitted.plan.expected["quality"] > 0.85


def test_accuracy_that_depends_on_the_query_is_learned() -> None:
    rng = np.random.default_rng(0)
    n = 800
    long = rng.random(n) < 0.5
    right = {
        "a": (rng.random(n) < np.where(long, 0.95, 0.3))[:, None],
        "b": (rng.random(n) < np.where(long, 0.3, 0.95))[:, None],
        "large": (rng.random(n) < 0.97)[:, None],
    }
    data = answered(right, {"a": 1e-5, "b": 1e-5, "large": 1e-3})
    from dataclasses import replace

    from serve_app.types import Message, Query

    texts = [f"question {i} " + "with many more words " * (15 if is_long else 0) for i, is_long in enumerate(long)]
    data = replace(data, queries=tuple(Query((Message("user", text),)) for text in texts))
    plan = fit_plan(data, Goal(strong_share=0.1)).plan
    assert set(plan.agreement["likes"]) == {"a", "b"}  # type: ignore[call-overload]
    assert plan.expected["quality"] > data.pools["b"].quality.mean() + 0.2
    with pytest.raises(NotWorthIt):  # members that are right on half of the queries each, and none knows on which
        fit_plan(data, Goal(strong_share=0.1), EnsembleOptions(like_queries=False))


def test_the_form_of_answers_is_the_one_that_fits() -> None:
    data = answered(drawn(200, EQUAL), COST)
    from dataclasses import replace

    pool = data.pools["b"]
    money = tuple((f"${text}.00",) for (text,) in pool.texts)
    spelled = replace(data, pools={**data.pools, "b": replace(pool, texts=money)})
    assert best_form(data, ["a", "b"]) == "exact" and best_form(spelled, ["a", "b"]) == "number"


def test_wrong_input() -> None:
    data = answered(drawn(100, EQUAL), COST)
    with pytest.raises(InsufficientData, match="59 queries are too few"):
        fit_plan(data.take(range(59)), Goal(strong_share=0.2))
    with pytest.raises(ConfigError, match="needs two members"):
        fit_plan(data, Goal(strong_share=0.2), EnsembleOptions(members=("a",)))
    with pytest.raises(DataError, match="have no pool 'z'"):
        fit_plan(data, Goal(strong_share=0.2), EnsembleOptions(members=("a", "z")))
    with pytest.raises(ConfigError, match="no member 'z'"):
        fit_plan(data, Goal(strong_share=0.2), EnsembleOptions(strong="z"))
    with pytest.raises(ConfigError, match="cannot be met"):
        fit_plan(data, Goal(budget_usd=1e-9))
    with pytest.raises(ConfigError, match="needs a goal"):
        Goal()
    with pytest.raises(ConfigError, match="the same limit is given twice"):
        Goal.parse("cost=0.1", budget_usd=0.2)
    with pytest.raises(ConfigError, match=r"write quality=0\.9"):
        Goal.parse("luck=1")


def _calls(*names: str):  # type: ignore[no-untyped-def]
    from serve_app.ensemble.base import MemberCalls

    return [MemberCalls(name) for name in names]
