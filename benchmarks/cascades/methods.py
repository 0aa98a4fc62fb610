"""The methods: each is fitted on train for every budget, and returns its curve on test.

threshold           one quantile of the raw confidence for all levels of the chain, swept; nothing else is fitted
calibrated          the chain as `jethro cascade fit` does it: blended calibration, doubt per dollar unless doubt alone
                    is surely better on train, thresholds searched
routing             Dekoninck et al.: one model by estimates before any answer
cascade             theirs: the chain in its order, estimates after each answer, cost in the decision; it knows more
                    than `calibrated` (the prompt, how answers agree) and is better by cross-validation on train
cascade routing     theirs: any next model
linear              mixtures of single models that a reader of the test set would choose
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascades.curves import Curve
from serve_app.cascade.fitting.confidence import ConfidencePlan
from serve_app.cascade.fitting.evaluation import fit_replays
from serve_app.cascade.fitting.fit import ChainPlan, surely_above, thresholds_of
from serve_app.cascade.fitting.thresholds import ChainReplay
from serve_app.cascade.routing.estimates import fit_estimates, observations_of
from serve_app.cascade.routing.fitting import FOLDS, crossfitted, estimate_all, within_budget
from serve_app.cascade.routing.mixing import Mixture, best_single_mix, choose_shape, pays
from serve_app.cascade.routing.supermodels import Form
from serve_app.cascade.routing.walk import NextModelPolicy, Tables, Walked, walk
from serve_app.cascade.signals.tokens import SumLogprob
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, Target
from serve_app.learning.logistic import folds_of

Floats = NDArray[np.float64]
METHODS = ("threshold", "calibrated", "routing", "cascade", "cascade routing", "linear")
FITTED = ("calibrated", "routing", "cascade", "cascade routing")
"""Those that are fitted under a budget, and fall back to single models where they do not pay."""
FORMS: dict[str, Form] = {"routing": "single", "cascade": "prefix", "cascade routing": "any"}
NAMES = {form: name for name, form in FORMS.items()}
BUDGETS = 24
_FEW_BUDGETS = 10
"""For the search of four thresholds, which takes seconds each."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Train and test answers of the models of one setting, and the estimates of both."""

    train: Recorded
    test: Recorded
    fitted: Tables
    tested: Tables

    @property
    def range_usd(self) -> tuple[float, float]:
        """Mean test cost of the cheapest and the dearest model."""
        means = self.test.cost_usd.mean(0)
        return float(means.min()), float(means.max())

    def budgets(self, count: int = BUDGETS) -> list[float]:
        """Mean costs from the cheapest to the dearest model, as the train part has them."""
        means = self.train.cost_usd.mean(0)
        return [float(budget) for budget in np.linspace(means.min(), means.max(), count)]


def prepare(recorded: Recorded, models: list[str], vectors: Floats | None, seed: int) -> Setting:
    """Estimates: cross-fitted for train, fitted on train for test. `vectors` [n, d] of all prompts, None: not read."""
    chosen = recorded.of(models)
    at = np.array([split == "train" for split in recorded.splits])
    train, test = np.flatnonzero(at), np.flatnonzero(~at)
    seen = observations_of(chosen, vectors)
    ok, difficulty = chosen.ok[train], recorded.ok[train].mean(1)
    folds = folds_of(chosen.take(train).prompts, FOLDS, seed)
    fitted = crossfitted(seen.take(train), ok, difficulty, folds)
    estimates = fit_estimates(seen.take(train), ok, difficulty)
    quality, cost = estimate_all(estimates, seen.take(test))
    tested = Tables(quality, cost, fitted.move, chosen.ok[test], chosen.cost_usd[test])
    return Setting(chosen.take(train), chosen.take(test), fitted, tested)


def threshold(setting: Setting, points: int = 41) -> Curve:
    """A level's answer is taken unless its confidence is below the quantile; an unknown confidence is below any."""
    train, test = _known(setting.train.confidence), _known(setting.test.confidence)
    found = []
    for share in np.linspace(0.0, 1.0, points):
        cuts = np.quantile(train, share, axis=0) if share < 1.0 else np.full(train.shape[1], np.inf)
        found.append(_chain(ChainReplay(test[:, :-1], setting.test.ok, setting.test.cost_usd), cuts[:-1]))
    return _curve(found)


def calibrated(setting: Setting) -> Curve:
    """Thresholds on doubt per dollar, or on doubt where that is surely better on train; guarded by single models."""
    plan = ChainPlan(setting.train.models, Target(COST, 1.0), confidence_is=SumLogprob.name)
    confidence = ConfidencePlan(
        (SumLogprob(),), "blended", cost_aware=True
    )  # the recorded confidence stands for the signal
    both = [
        fit_replays(setting.train, setting.test, replace(plan, confidence=replace(confidence, cost_aware=c)))
        for c in (True, False)
    ]
    found, guarded = [], []
    for budget in setting.budgets(_FEW_BUDGETS if len(setting.train.models) > 4 else BUDGETS):
        fits = [(own, other, thresholds_of(own, Target(COST, budget * (1 + 1e-9)))) for own, other in both]
        walked = [(_chain(own, t), _chain(other, t)) for own, other, t in fits if t is not None]
        kept = [w for w in walked[:1] if not surely_above(walked[-1][0].quality - w[0].quality)] or walked[-1:]
        served = [other for own, other in kept if _pays(setting, own)]
        guarded.append(not served)
        mixture = best_single_mix(setting.train.ok, setting.train.cost_usd, budget).mixture()
        found.append(served[0] if served else _mixed(setting.tested, mixture, {}))
    return _curve(found, guarded)


def ours(setting: Setting, form: Form) -> Curve:
    """Routing, their cascade, or cascade routing."""
    shaped = choose_shape(setting.fitted, form)
    found, guarded = [], []
    shape = shaped.shape
    walked: dict[NextModelPolicy, Walked] = {}
    for budget in setting.budgets():
        mixture, fell_back = within_budget(setting.fitted, shaped, budget)
        found.append(_mixed(setting.tested, mixture, walked))
        guarded.append(fell_back)
    return _curve(found, guarded, f"{NAMES[shape.form]}, spread {shape.spread:g}, later {shape.later:g}")


def linear(setting: Setting) -> Curve:
    """The upper hull of the single models' test points."""
    ok, cost = setting.test.ok, setting.test.cost_usd
    low, high = setting.range_usd
    budgets = np.linspace(low, high, 4 * BUDGETS)
    mixes = [best_single_mix(ok, cost, float(budget)) for budget in budgets]
    return _curve(
        [
            Walked(
                (1 - m.share) * ok[:, m.cheap] + m.share * ok[:, m.dear],
                (1 - m.share) * cost[:, m.cheap] + m.share * cost[:, m.dear],
                np.zeros(len(ok), dtype=np.int64),
                np.zeros(len(ok), dtype=np.int64),
            )
            for m in mixes
        ]
    )


def all_methods(setting: Setting, report: Callable[[str], None]) -> dict[str, Curve]:
    """Every method's curve."""
    found = {"threshold": threshold(setting)}
    report("calibrated")
    found["calibrated"] = calibrated(setting)
    for name, form in FORMS.items():
        report(name)
        found[name] = ours(setting, form)
    return found | {"linear": linear(setting)}


def _known(confidence: Floats) -> Floats:
    return np.where(np.isnan(confidence), -np.inf, confidence)


def _pays(setting: Setting, own: Walked) -> bool:
    return pays(own.quality, setting.train.ok, setting.train.cost_usd, float(own.cost_usd.mean()))


def _chain(walk: ChainReplay, thresholds: Floats) -> Walked:
    """Each query of a chain."""
    rows, level = np.arange(len(walk.ok)), walk.level(thresholds)
    spent = np.cumsum(walk.cost_usd, axis=1)[rows, level]
    return Walked(walk.ok[rows, level], spent, 2 ** (level + 1) - 1, level)


def _mixed(tables: Tables, mixture: Mixture, walked: dict[NextModelPolicy, Walked]) -> Walked:
    """`mixing.expected`, each policy walked once."""
    for policy in (mixture.cheap, mixture.dear):
        if policy not in walked:
            walked[policy] = walk(tables, policy)
    cheap, dear, share = walked[mixture.cheap], walked[mixture.dear], mixture.share
    return Walked(
        (1 - share) * cheap.quality + share * dear.quality,
        (1 - share) * cheap.cost_usd + share * dear.cost_usd,
        dear.called,
        dear.answer,
    )


def _curve(found: list[Walked], guarded: list[bool] | None = None, note: str = "") -> Curve:
    quality, cost = np.array([w.quality for w in found]), np.array([w.cost_usd for w in found])
    return Curve(quality, cost, tuple(guarded or ()), note)
