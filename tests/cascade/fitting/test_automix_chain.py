"""AutoMix as a chain, from recorded verdicts."""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.cascade.artefact import FittedChain, load_fitted, save_chain, version_of
from serve_app.cascade.fitting.automix import AutoMixPlan, fit_automix, incremental_benefit
from serve_app.cascade.fitting.evaluation import held_out_of, replay_of
from serve_app.cascade.signals.calibration import BinnedAcceptance
from serve_app.cascade.signals.consistency import SelfVerification
from serve_app.cascade.signals.tokens import MeanLogprob, Prior
from serve_app.data.recorded import Recorded
from serve_app.decision.target import Target
from serve_app.errors import ConfigError, DataError
from tests.cascade.recordings import made_up

MODELS = ("small", "large")


def three_kinds(n: int = 600, seed: int = 0) -> Recorded:
    """A third each hopeless (few verdicts say yes), needy (half) and good (most)."""
    rng, made = np.random.default_rng(seed), made_up(n, seed)
    state = rng.integers(3, size=n)  # 0 hopeless, 1 needy, 2 good
    ok = np.stack([state == 2, state >= 1], axis=1).astype(np.float64)
    yes = rng.random((n, 8)) < np.array([0.1, 0.5, 0.9])[state][:, None]
    judged = tuple(
        (replace(row[0], verdicts=tuple(map(float, said))), row[1])
        for row, said in zip(made.evidence, yes, strict=True)
    )
    extra = np.tile([1e-6, 0.0], (n, 1))
    return replace(made, ok=ok, evidence=judged, extra_cost_usd=extra, cost_usd=np.tile([1e-5, 1e-4], (n, 1)))


def plan(**changed: object) -> AutoMixPlan:
    return replace(AutoMixPlan(MODELS, Target("strong-share", 0.35)), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("decider", ["double-threshold", "pomdp"])
def test_hopeless_queries_are_not_passed_on(decider):
    """The paper's effect: the middle band is worth the large model, and one threshold cannot ask it alone."""
    unseen = three_kinds(seed=1)
    small = (float(unseen.ok[:, 0].mean()), 1e-5)
    found = {}
    for name in ("threshold", decider):
        chain = fit_automix(three_kinds(), plan(decider=name)).chain
        done = held_out_of(chain, replay_of(chain, unseen))
        found[name] = incremental_benefit(float(done.quality.mean()), float(done.cost_usd.mean()), small)
    assert found[decider] > 1.3 * found["threshold"]


def test_its_own_figures_are_held_out_and_count_the_verdicts():
    fitted = fit_automix(three_kinds(), plan())
    expected = fitted.chain.expected
    share = expected["strong_share"]
    assert 0.2 < share < 0.45
    assert expected["cost_usd"] == pytest.approx(1.1e-5 + share * 1e-4)
    assert fitted.data["decider"] == "pomdp"


def test_it_is_saved_and_decides_the_same(tmp_path):
    chain = fit_automix(three_kinds(), plan()).chain
    save_chain(fit_automix(three_kinds(), plan()), tmp_path / "chain")
    again = load_fitted(tmp_path / "chain").chain
    unseen = three_kinds(seed=2)
    assert np.array_equal(replay_of(chain, unseen).probability, replay_of(again, unseen).probability)
    assert again.version == chain.version
    assert again.levels[0].signal == SelfVerification()


def test_a_chain_fitted_with_eight_bins_still_loads(tmp_path):
    """The number of bins is part of the artefact: chains of older fits keep their own edges."""
    folder = tmp_path / "chain"
    save_chain(fit_automix(three_kinds(), plan()), folder)
    fitted = load_fitted(folder).chain
    eight = BinnedAcceptance(tuple(k / 8 for k in range(1, 8)), (True, True, True, False, False, False, True, True))
    levels = (replace(fitted.levels[0], calibrator=eight), fitted.levels[1])
    old = replace(fitted, levels=levels, version=version_of(levels, None))
    save_chain(FittedChain(old, "strong-share=0.35", {}), tmp_path / "old")
    again = load_fitted(tmp_path / "old").chain
    assert again.levels[0].calibrator == eight and again.version == old.version
    assert [eight.probability(p) for p in (0.3, 0.5, 7 / 8, 1.0)] == [1.0, 0.0, 1.0, 1.0]


def test_quality_and_cost_targets():
    kept = fit_automix(three_kinds(), plan(target=Target("quality-drop", 0.1))).chain.expected
    assert kept["quality_drop"] < 0.15
    assert kept["cost_usd"] < kept["strong_cost_usd"]
    cheap = fit_automix(three_kinds(), plan(target=Target("cost", 3e-5))).chain.expected
    assert cheap["cost_usd"] < 3.3e-5


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"models": ("small",)}, ConfigError, "small and a large"),
        ({"decider": "coin"}, ConfigError, "threshold, double-threshold, pomdp"),
        ({"target": Target("cost", 1e-6)}, ConfigError, "small alone"),
        ({"signal": MeanLogprob()}, DataError, "no fraction"),
        ({"target": Target("cost", 1.1e-5)}, DataError, "no better"),
    ],
)
def test_what_cannot_be_is_refused(changed, error, said):
    with pytest.raises(error, match=said):
        fit_automix(three_kinds(), plan(**changed))


def test_answers_without_verdicts_are_refused_with_the_mend():
    with pytest.raises(DataError, match="--verdicts 8"):
        fit_automix(made_up(), plan())
    with pytest.raises(DataError, match=r"prior .*small.*--router"):
        fit_automix(made_up(), plan(signal=Prior()))


def test_queries_of_one_text_are_refused():
    recorded = three_kinds()
    with pytest.raises(DataError, match="one text"):
        fit_automix(replace(recorded, prompts=("same",) * len(recorded)), plan())
