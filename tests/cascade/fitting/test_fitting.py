""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.cascade.artefact import load_fitted, save_chain
from serve_app.cascade.fitting.confidence import (
    NOT_TAKEN,
    ConfidenceModel,
    ConfidencePlan,
    fit_confidence,
    probabilities,
    raw_values,
)
from serve_app.cascade.fitting.evaluation import held_out_of, outcomes, replay_of, signal_qualities
from serve_app.cascade.fitting.fit import ChainPlan, fit_chain
from serve_app.cascade.fitting.held_out import HeldOut, expected
from serve_app.cascade.fitting.worth import check_worth
from serve_app.cascade.signals.calibration import LogisticCalibrator
from serve_app.cascade.signals.combined import CostAware, fit_relative_cost
from serve_app.cascade.signals.tokens import Brevity, MeanLogprob, MinLogprob
from serve_app.decision.target import Target
from serve_app.errors import ConfigError, DataError, InsufficientData
from tests.cascade.recordings import made_up

ONE = ConfidencePlan((MeanLogprob(),))
TWO = ConfidencePlan((MeanLogprob(), Brevity()))


def plan(
    target: str = "quality-drop=0.02", confidence: ConfidencePlan = ONE, models=("small", "large"), **more
) -> ChainPlan:
    return ChainPlan(tuple(models), Target.parse(target), confidence, **more)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [ONE, TWO, replace(ONE, calibrator="isotonic"), replace(ONE, cost_aware=True)])
def test_a_chain_is_fitted_saved_and_keeps_its_word_elsewhere(tmp_path, confidence):
    fitted = fit_chain(made_up(1_500), plan(confidence=confidence))
    save_chain(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    assert loaded == fitted
    other = made_up(1_500, seed=1)
    walk = replay_of(loaded.chain, other)
    found = held_out_of(loaded.chain, walk)
    figures = expected(found, other, ["small", "large"])
    assert figures["quality_drop"] < 0.06
    assert figures["strong_share"] == pytest.approx(fitted.chain.expected["strong_share"], abs=0.08)
    assert signal_qualities(loaded.chain, walk)[0].auc > 0.7


def test_the_same_data_give_the_same_chain():
    assert fit_chain(made_up(), plan()).chain == fit_chain(made_up(), plan()).chain


@pytest.mark.parametrize("target", ["strong-share=0.3", "cost=0.00005"])
def test_budgets_are_kept_on_the_data_themselves(target):
    recorded = made_up(800)
    fitted = fit_chain(recorded, plan(target))
    found = held_out_of(fitted.chain, replay_of(fitted.chain, recorded))
    assert found.strong_share <= 0.3 + 1e-9 if "share" in target else found.cost_usd.mean() <= 5e-5 * (1 + 1e-9)


def test_judging_one_by_one_is_judging_all_at_once():
    recorded = made_up(200)
    judged = [row[0] for row in recorded.evidence]
    for confidence_plan in (ONE, TWO, replace(TWO, cost_aware=True)):
        raw = raw_values(confidence_plan.signals, judged)
        fitted, _ = fit_confidence(confidence_plan, raw, recorded.ok[:, 0], judged, recorded.cost_usd[:, 1])
        at_once = fitted.probabilities(raw, judged)
        assert at_once == pytest.approx([fitted.probability(j) for j in judged])


def test_what_is_worse_than_its_first_model_is_refused_with_figures():
    recorded = made_up(300)
    costs = recorded.cost_usd.sum(1)
    worse = HeldOut(("small", "large"), np.ones(300, dtype=np.int64), np.zeros(300), costs)
    with pytest.raises(DataError, match=r"small -> large .*worse than large.*\[-"):
        check_worth(worse, recorded)
    check_worth(replace(worse, quality=np.ones(300)), recorded)


def test_queries_of_one_text_are_refused_before_any_fit():
    recorded = made_up(200)
    with pytest.raises(InsufficientData, match="one text"):
        fit_chain(replace(recorded, prompts=("same",) * 200), plan())


def test_a_cost_that_unknown_signals_put_out_of_reach_is_not_blamed_on_the_cheapest_model():
    recorded = made_up(300)
    deaf = tuple(
        (replace(row[0], logprobs=row[0].logprobs[: i % 3 == 0]), row[1]) for i, row in enumerate(recorded.evidence)
    )
    with pytest.raises(ConfigError, match="escalated"):
        fit_chain(replace(recorded, evidence=deaf), plan("cost=0.00003"))


def test_a_useless_first_model_makes_no_chain():
    recorded = made_up(600)
    useless = replace(recorded, ok=np.column_stack([np.zeros(600), recorded.ok[:, 1]]))
    with pytest.raises(DataError, match=r"small -> large .*no better"):
        fit_chain(useless, plan("strong-share=1"))


def test_a_single_model_outside_the_chain_counts_too():
    recorded = made_up(600, models=("small", "middle", "large"))
    cheap = recorded.cost_usd.copy()
    cheap[:, 1] = cheap[:, 0]
    ok = recorded.ok.copy()
    ok[:, 1] = 1.0
    with pytest.raises(DataError, match="worse than middle"):
        fit_chain(replace(recorded, cost_usd=cheap, ok=ok), plan())


def test_models_are_chosen_among_many():
    recorded = made_up(800, models=("a", "b", "c", "d"))
    ok = recorded.ok.copy()
    ok[:, 1] = 0.0  # b is of no use
    lines: list[str] = []
    fitted = fit_chain(
        replace(recorded, ok=ok), plan("cost=0.004", models="abcd", choose=True), lambda line: lines.append(line)
    )
    pools = [level.pool for level in fitted.chain.levels]
    assert "b" not in pools and pools == sorted(pools) and len(lines) == 6 + 4 + 1


def test_held_out_figures_choose_the_judge():
    recorded = made_up(600)
    noise = ConfidencePlan((MinLogprob(),))
    flat = replace(recorded, evidence=recorded.evidence)
    fitted = fit_chain(flat, plan("strong-share=0.3", replace(noise, cost_aware=True), alternatives=(noise,)))
    assert fitted.chain.levels[0].signal is not None


def test_pools_are_named_and_the_probe_is_kept():
    fitted = fit_chain(made_up(), plan(confidence=replace(ONE, prefix=1), pools={"small": "weak"}))
    assert [level.pool for level in fitted.chain.levels] == ["weak", "large"]
    assert fitted.chain.probe_tokens == 1


def test_recorded_confidence_stands_for_a_signal():
    recorded = made_up(400)
    bare = replace(
        recorded,
        evidence=tuple(tuple(replace(j, logprobs=()) for j in row) for row in recorded.evidence),
        confidence=recorded.confidence,
    )
    fitted = fit_chain(bare, plan(confidence_is="mean_logprob"))
    assert fitted.chain.levels[0].threshold == pytest.approx(fit_chain(recorded, plan()).chain.levels[0].threshold)
    with pytest.raises(InsufficientData, match=r"mean_logprob .*small"):
        fit_chain(bare, plan())


def test_outcomes_rise_with_the_budget():
    recorded = made_up(1_000)
    found = outcomes(recorded.split("train"), recorded.split("test"), plan(), [1e-6, 3e-5, 6e-5, 1.1e-4])
    assert found[0] is None
    known = [o for o in found if o is not None]
    assert [o.cost_usd for o in known] == sorted(o.cost_usd for o in known)
    assert known[-1].quality > known[0].quality


@pytest.mark.parametrize(
    ("recorded", "made", "error", "says"),
    [
        (made_up(50), plan(), InsufficientData, "100 queries, .*50"),
        (made_up(), plan(models=("small",)), ConfigError, "two models, .*small"),
        (made_up(), plan(models=("small", "huge")), DataError, "'huge'"),
        (made_up(), plan("cost=0.000001"), ConfigError, "cost=0.000001 .*cheapest model"),
        (made_up(), plan(confidence=replace(ONE, calibrator="x")), ConfigError, "calibrator 'x'"),
    ],
)
def test_what_cannot_be_fitted_says_why(recorded, made, error, says):
    with pytest.raises(error, match=says):
        fit_chain(recorded, made)


def test_a_chain_over_answers_of_other_pools():
    chain = fit_chain(made_up(), plan()).chain
    with pytest.raises(DataError, match=r"small.* a, b"):
        replay_of(chain, made_up(models=("a", "b")))


def test_relative_costs():
    prompts = ["x" * k for k in range(1, 101)]
    found = fit_relative_cost(prompts, np.arange(1.0, 101.0) + 10)
    signal = CostAware(MeanLogprob(), LogisticCalibrator(0.0, 0.0), *found)  # doubt of a half
    assert signal.of_value(0.0, 50) == pytest.approx(-0.5 / (60 / 60.5)) and signal.of_value(0.0, 0) == -0.5 / 0.2
    assert fit_relative_cost(prompts, np.arange(100.0, 0.0, -1)) == (1.0, 0.0)
    assert fit_relative_cost(prompts, np.zeros(100)) == (1.0, 0.0)
    with pytest.raises(ConfigError, match="per_character"):
        CostAware(MeanLogprob(), LogisticCalibrator(1.0, 0.0), 1.0, -1.0)


def test_doubt_weighs_less_where_asking_further_is_dear():
    recorded = made_up(200)
    judged = [row[0] for row in recorded.evidence]
    fitted, _ = fit_confidence(ONE, raw_values(ONE.signals, judged), recorded.ok[:, 0], judged, recorded.cost_usd[:, 1])
    signal = CostAware(fitted.signal, fitted.calibrator, 0.0, 0.01)
    assert signal.of_value(-1.0, 500) > signal.of_value(-1.0, 100)
    assert signal.of_value(-0.1, 100) > signal.of_value(-1.0, 100)
    assert np.isnan(signal.of_value(float("nan"), 10))


def test_unknown_signals_are_not_taken():
    fitted, _ = fit_confidence(
        ONE, raw_values(ONE.signals, j := [r[0] for r in made_up(60).evidence]), made_up(60).ok[:, 0], j, np.ones(60)
    )
    silent = replace(j[0], logprobs=())
    assert ConfidenceModel(fitted.signal, fitted.calibrator).probability(silent) == NOT_TAKEN
    assert probabilities(fitted.calibrator, np.array([np.nan])).tolist() == [NOT_TAKEN]
