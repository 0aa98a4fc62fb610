"""Fits a chain to recorded answers: confidence models, thresholds within a budget, the choice of models.

The promise of a chain (`expected`) is measured by cross-fitting: each query is answered by confidence models and
thresholds that were fitted without it. A fit that is no use is refused, see `worth`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import sqrt
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.artefact import FittedChain
from serve_app.cascade.base import Level
from serve_app.cascade.fitting.confidence import (
    ConfidenceModel,
    ConfidencePlan,
    check_defined,
    fit_confidence,
    opening,
    recorded_values,
)
from serve_app.cascade.fitting.held_out import HeldOut, chain_of_levels, origin
from serve_app.cascade.fitting.thresholds import ChainReplay, fit_thresholds, smoothed
from serve_app.cascade.fitting.worth import (
    check_held_out,
    check_shifted,
    check_worth,
    held_out_by,
    kinds_of,
    on_target,
)
from serve_app.cascade.signals.combined import joint_needs
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, QUALITY_DROP, Target
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.logistic import folds_of
from serve_app.numbers import fixed, percent, significant

T = TypeVar("T")
Report = Callable[[str], None]
_FEWEST: Final = 100
"""Queries required for a chain: with fewer its held-out figures mean nothing."""


def surely_above(gain: Floats) -> bool:
    """Whether the mean of paired differences [n] exceeds 0 by more than its standard error."""
    return float(gain.mean()) > float(gain.std()) / sqrt(len(gain))


def first_unless_sure(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> tuple[HeldOut, T]:
    """Of one chain with several confidence plans the first, unless another is better by more than one standard error.

    The best of several held-out figures is partly the luckiest (the one-standard-error rule of Breiman et al. 1984).
    """
    first, *others = _good(found, target, recorded) if target.name == QUALITY_DROP else found
    for other in others:
        gain = other[0].quality - first[0].quality
        if target.name == QUALITY_DROP:
            gain = first[0].cost_usd - other[0].cost_usd
        if surely_above(gain):
            first = other
    return first


def best_of(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> tuple[HeldOut, T]:
    """Of several chains: the best quality, then the least cost; for a quality drop the least cost of those within it.

    Held-out figures scatter about that target, and each chain has its own last model: what counts is the best model's
    quality.
    """
    if target.name == QUALITY_DROP:
        return min(_good(found, target, recorded), key=lambda f: f[0].cost_usd.mean())
    return max(found, key=lambda f: (round(float(f[0].quality.mean()), 10), -float(f[0].cost_usd.mean())))


def _good(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> list[tuple[HeldOut, T]]:
    """Those within a quality drop of the best model, or else the best."""
    least = (1 - target.value) * float(recorded.ok.mean(0).max())
    inside = [f for f in found if f[0].quality.mean() >= least]
    return inside or [max(found, key=lambda f: f[0].quality.mean())]


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What to fit. `models`: weakest first; with `choose` any of them in order of cost, at most `most_levels` of them.

    `alternatives`: other confidence plans, taken where held-out figures are surely better. `confidence_is`: the signal
    whose values the recorded confidences are, where answers have no tokens. `pools`: the pool of each model, by default
    of the same name.
    """

    models: tuple[str, ...]
    target: Target
    confidence: ConfidencePlan = field(default_factory=ConfidencePlan)
    alternatives: tuple[ConfidencePlan, ...] = ()
    choose: bool = False
    most_levels: int = 3
    confidence_is: str | None = None
    pools: Mapping[str, str] = field(default_factory=dict)
    folds: int = 5
    seed: int = 0


def fit_chain(recorded: Recorded, plan: ChainPlan, report: Report = lambda _: None) -> FittedChain:
    """The chain, fitted on all queries, with its held-out figures in `expected`.

    Where held-out queries miss the target the fit aims at a tighter one. Raises ConfigError for a target that cannot be
    met, InsufficientData for too few queries, DataError for a chain that misses its target whatever it aims at, or
    that a single model makes superfluous.
    """
    if len(plan.models) < 2 or plan.most_levels < 2:
        raise ConfigError(f"a chain needs at least two models, not {', '.join(plan.models) or 'none'}: name them")
    if len(recorded) < _FEWEST:
        raise InsufficientData(f"a chain needs at least {_FEWEST} queries, there are {len(recorded)}: collect more")
    chosen = recorded.of(plan.models)
    if plan.confidence_is is not None and not np.isfinite(chosen.confidence).any():
        raise InsufficientData(f"no answer has a recorded confidence (`conf`) that could be {plan.confidence_is}")
    fits = [_CrossFit(chosen, replace(plan, confidence=one)) for one in (plan.confidence, *plan.alternatives)]
    first, fit = _chosen(fits, report)
    models = tuple(chosen.models.index(name) for name in first.models)
    check_worth(first, recorded)
    aim = on_target(lambda aim: _held_out(fit, models, aim)[0], first, recorded, plan.target)
    held_out = first
    if aim != plan.target:
        held_out = _held_out(fit, models, aim)[0] or first
        report(f"aims at {aim}, so that held-out queries keep {plan.target}: {_line(held_out, fit.plan.confidence)}")
        check_worth(held_out, recorded)
    kinds, kind = kinds_of(chosen, plan.folds)
    shifted, known = _held_out(fit.by(kinds), models, aim, partly=True)
    if shifted is not None:
        report(f"by {kind}: {_line(shifted, fit.plan.confidence)}")
        check_shifted(shifted, recorded.take(known), kind)
    return _final(fit, (held_out, shifted), aim, recorded)


def raw_of(recorded: Recorded, model: int, plan: ChainPlan) -> Floats:
    """Raw values [n, signals] of a model's answers, or of their first tokens."""
    how = plan.confidence
    return recorded_values(how.signals, recorded, model, how.prefix, plan.confidence_is)


def thresholds_of(replay: ChainReplay, target: Target) -> Floats | None:
    """As `fit_thresholds`, on expected qualities where a budget is to be spent well.

    A quality target is held to the outcomes themselves.
    """
    return fit_thresholds(replay if target.name == QUALITY_DROP else smoothed(replay), target)


class _CrossFit:
    """Confidence models of each model, on all queries and without each fold; fitted on first use."""

    def __init__(self, recorded: Recorded, plan: ChainPlan, folds: NDArray[np.int64] | None = None) -> None:
        self.recorded, self.plan = recorded, plan
        self.folds = folds_of(recorded.prompts, plan.folds, plan.seed) if folds is None else folds
        check_held_out(self.folds)
        self._raw: dict[int, Floats] = {}
        self._fitted: dict[tuple[int, int], tuple[ConfidenceModel, Floats, Floats]] = {}

    def by(self, folds: NDArray[np.int64]) -> "_CrossFit":
        """The same with other folds [n]."""
        found = _CrossFit(self.recorded, self.plan, folds)
        found._raw = self._raw
        return found

    def confidence(self, model: int, without: int = -1) -> tuple[ConfidenceModel, Floats, Floats]:
        """The fitted one, its probabilities of the answers it was fitted on (out of fold), and of the fold left out."""
        key = (model, without)
        if key not in self._fitted:
            if model not in self._raw:
                self._raw[model] = raw_of(self.recorded, model, self.plan)
                check_defined(self.plan.confidence.signals, self._raw[model], self.recorded.models[model])
            raw, inside = self._raw[model], self.folds != without
            kept = list(zip([row[model] for row in self.recorded.evidence], inside, strict=True))
            answers = [answer for answer, keep in kept if keep]
            ok, next_cost = self.recorded.ok[inside, model], self.recorded.cost_usd[inside].max(1)
            fitted, own = fit_confidence(self.plan.confidence, raw[inside], ok, answers, next_cost)
            others = [opening(answer, self.plan.confidence.prefix) for answer, keep in kept if not keep]
            outside = fitted.probabilities(raw[~inside], others) if others else np.empty(0)
            self._fitted[key] = fitted, own, outside
        return self._fitted[key]

    def replays(self, models: Sequence[int], without: int = -1) -> tuple[ChainReplay, ChainReplay | None]:
        """The chain over the queries that it was fitted on, and over those left out."""
        inside = self.folds != without
        found = [self.confidence(model, without) for model in models[:-1]]
        own = self._replay(models, inside, [probabilities for _, probabilities, _ in found])
        if not (~inside).any():
            return own, None
        return own, self._replay(models, ~inside, [probabilities for _, _, probabilities in found])

    def _replay(self, models: Sequence[int], rows: NDArray[np.bool_], probabilities: Sequence[Floats]) -> ChainReplay:
        at = list(models)
        cost = self.recorded.cost_usd[rows][:, at].copy()
        if any(s.needs.samples or s.needs.verdicts for s in self.plan.confidence.signals):
            cost[:, :-1] += self.recorded.extra_cost_usd[rows][:, at[:-1]]
        columns = np.column_stack(probabilities) if probabilities else np.empty((int(rows.sum()), 0))
        return ChainReplay(columns, self.recorded.ok[rows][:, at], cost)


def _chosen(fits: Sequence[_CrossFit], report: Report) -> tuple[HeldOut, _CrossFit]:
    """The plan's chain, or the best of those it may choose, by held-out figures; and its fit."""
    recorded, plan = fits[0].recorded, fits[0].plan
    candidates = [tuple(range(len(plan.models)))]
    if plan.choose:
        order = np.argsort(recorded.cost_usd.mean(0), kind="stable").tolist()
        sizes = range(2, min(plan.most_levels, len(order)) + 1)
        candidates = [c for size in sizes for c in combinations(order, size)]
    found: list[tuple[HeldOut, _CrossFit]] = []
    for models in candidates:
        of = [(held_out, fit) for fit in fits if (held_out := _held_out(fit, models, plan.target)[0]) is not None]
        for held_out, fit in of:
            report(_line(held_out, fit.plan.confidence))
        if of:
            found.append(first_unless_sure(of, plan.target, recorded))
    if not found:
        raise ConfigError(_out_of_reach(recorded, plan))
    return best_of(found, plan.target, recorded)


def _line(held_out: HeldOut, plan: ConfidencePlan) -> str:
    how = ", ".join([plan.calibrator, *["cost-aware"] * plan.cost_aware, *(["scorer"] if plan.scorer else [])])
    return (
        f"{' -> '.join(held_out.models)} ({how}): quality {fixed(held_out.quality.mean(), 4)}, "
        f"{significant(held_out.cost_usd.mean())} USD a query, {percent(held_out.strong_share)} reach the last "
        "(held out)"
    )


def _out_of_reach(recorded: Recorded, plan: ChainPlan) -> str:
    cheapest = float(recorded.cost_usd.mean(0).min())
    if plan.target.name == COST and plan.target.value < cheapest:
        least = significant(cheapest)
        return f"{plan.target} USD cannot be met: the cheapest model alone costs {least} USD a query; raise it"
    return (
        f"{plan.target} cannot be met with {' -> '.join(plan.models)} (an answer whose signal is undefined is "
        "escalated): loosen it, or give other models or signals"
    )


def _held_out(
    fit: _CrossFit, models: Sequence[int], target: Target, partly: bool = False
) -> tuple[HeldOut | None, NDArray[np.bool_]]:
    """The chain over all queries, each by a fit without its fold; None if a fit cannot meet the target.

    With `partly` such folds are left out. Also which queries [n] are in.
    """

    def answered(fold: int) -> tuple[NDArray[np.int64], Floats, Floats] | None:
        own, outside = fit.replays(models, fold)
        thresholds = thresholds_of(own, target)
        assert outside is not None  # there are several folds
        return None if thresholds is None else outside.taken(thresholds)

    found, known = held_out_by(fit.folds, [fit.recorded.models[i] for i in models], answered)
    return found if partly or known.all() else None, known


def _final(fit: _CrossFit, measured: tuple[HeldOut, HeldOut | None], aim: Target, recorded: Recorded) -> FittedChain:
    """The chain of all queries, fitted to `aim`. `measured`: held out at random, and by kind of query."""
    plan, (held_out, shifted) = fit.plan, measured
    models = [fit.recorded.models.index(m) for m in held_out.models]
    thresholds = thresholds_of(fit.replays(models)[0], aim)
    if thresholds is None:
        raise ConfigError(_out_of_reach(fit.recorded, plan))
    fitted = [fit.confidence(m)[0] for m in models[:-1]]
    pools = [plan.pools.get(name, name) for name in held_out.models]
    levels = [Level(p, f.signal, f.calibrator, float(t)) for p, f, t in zip(pools, fitted, thresholds, strict=False)]
    prefix = plan.confidence.prefix
    chain = chain_of_levels((*levels, Level(pools[-1])), held_out, fit.recorded, prefix, shifted)
    about = origin(recorded, joint_needs(plan.confidence.signals).prior, plan.confidence_is)
    aimed = {} if aim == plan.target else {"aim": str(aim)}
    return FittedChain(chain, str(plan.target), {**about, **aimed, "folds": plan.folds, "seed": plan.seed})
