"""Retrains a router on fresh traffic, and lets the new version serve only where it is not worse than the old one.

Both are measured on queries of the fresh data that neither has learned from, each sending the same number of them to
the strong pool: as many as the version in service does. The difference of their mean quality has a paired bootstrap
interval over queries; the new version is not worse if the interval's lower end is above minus the margin
(non-inferiority). With few queries the interval is wide and the old version stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import text_hashes
from serve_app.data.splitting import folds
from serve_app.data.validation import check
from serve_app.errors import ConfigError, DataError
from serve_app.learning.metrics import Interval, average_pgr, bootstrap, cost_quality_curve
from serve_app.numbers import fixed, percent
from serve_app.routing.base import Report, silent
from serve_app.routing.registry import RANDOM, Registry, own_name
from serve_app.training.artefacts import Artefact, learned_from, open_router
from serve_app.training.training import (
    ARTEFACT_KEYS,
    TrainingRun,
    data_digest,
    default_folds,
    read_run,
    register,
    train,
)

FEWEST_HELD_OUT: Final = 50
"""Fewer queries cannot show that anything is not worse."""


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """How to refresh. `margin` is a share of the strong pool's mean quality; `source` names the data in run.json."""

    source: str
    margin: float = 0.01
    held_out_of: int = 4
    """One of this many folds is held out, near-duplicates never apart."""
    swap: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The new version against the one in service on `queries` held out; quality of both at `share` strong calls."""

    name: str
    served: str
    fresh: str
    queries: int
    share: float
    served_quality: float
    fresh_quality: float
    difference: Interval
    served_apgr: float | None
    fresh_apgr: float | None
    allowed: float
    """The largest loss of quality that counts as not worse."""
    swapped: bool

    @property
    def not_worse(self) -> bool:
        """Whether the interval leaves no room for a loss beyond what is allowed."""
        return self.difference.low >= -self.allowed

    def summary(self) -> str:
        """The comparison and what was done, in sentences."""
        d = self.difference
        found = (
            f"{self.fresh} against {self.served} on {self.queries:,} held-out queries, "
            f"{percent(self.share)} strong calls each: quality {fixed(self.fresh_quality, 4)} against "
            f"{fixed(self.served_quality, 4)}, difference {fixed(d.value, 4, sign=True)} (95 %: "
            f"{fixed(d.low, 4, sign=True)} to {fixed(d.high, 4, sign=True)})"
        )
        if self.served_apgr is not None and self.fresh_apgr is not None:
            found += f"; APGR {fixed(self.fresh_apgr, 3)} against {fixed(self.served_apgr, 3)}"
        if self.not_worse:
            done = f"{self.name} serves it from now on" if self.swapped else "it may serve: jethro router use"
            return f"{found}. Not worse (at most {fixed(self.allowed, 4)} may be lost): {done}."
        why = "it is worse" if d.high < 0 else "that it is not worse cannot be shown with so few queries"
        return f"{found}. {self.served} continues to serve: {why} (at most {fixed(self.allowed, 4)} may be lost)."


def refresh(name: str, dataset: Dataset, registry: Registry, plan: RefreshPlan, report: Report = silent) -> Refreshed:
    """Retrain the router `name` as it was trained, register it, compare, and swap if it is not worse.

    That of a shipped router has a name of its own, see `own_name`, which serves from then on next to it.

    `dataset` has the scored answers of the pools `small` and `large` to fresh queries. Raises DataError if it cannot
    teach, or too few of its queries are new to the version in service; ConfigError for an unknown name.
    """
    served = open_router(registry, name)
    if served.folder is None:
        raise ConfigError(f"{RANDOM} has nothing to learn: give a router that was trained")
    learn, held = _split(served, dataset, plan)
    check(learn, pools=("small", "large"), needs_two_classes=True, source=plan.source)
    run = replace(_run_of(served, plan), digest=data_digest(learn))
    report(f"{name}: {run.kind} again on {len(learn):,} queries; {len(held):,} held out")
    trained = train(run, learn, report)
    own = own_name(name)
    fresh = register(trained, learn, registry, own, use=False)
    found = compared(served, trained.router.score(held.queries), held, plan)
    found = replace(found, name=own, fresh=fresh)
    if found.not_worse and plan.swap:
        registry.use(own, fresh)
        return replace(found, swapped=True)
    return found


def compared(served: Artefact, fresh_scores: Floats, held: Dataset, plan: RefreshPlan) -> Refreshed:
    """Quality of both at the share of strong calls that the version in service takes; name and fresh left empty."""
    served_scores = served.registered.router.score(held.queries)
    weak, strong = held.weak.quality.mean(1), held.strong.quality.mean(1)
    share = float((served_scores >= served.registered.threshold).mean())

    def quality(scores: Floats, rows: NDArray[np.int64]) -> float:
        to_strong = highest(scores[rows], share)
        return float((to_strong * strong[rows] + (1 - to_strong) * weak[rows]).mean())

    def difference(rows: NDArray[np.int64]) -> float:
        return quality(fresh_scores, rows) - quality(served_scores, rows)

    everything = np.arange(len(held))
    return Refreshed(
        name="",
        served=served.registered.version,
        fresh="",
        queries=len(held),
        share=share,
        served_quality=quality(served_scores, everything),
        fresh_quality=quality(fresh_scores, everything),
        difference=bootstrap(difference, len(held), seed=plan.seed),
        served_apgr=_apgr(served_scores, weak, strong),
        fresh_apgr=_apgr(fresh_scores, weak, strong),
        allowed=plan.margin * abs(float(strong.mean())),
        swapped=False,
    )


def highest(scores: Floats, share: float) -> Floats:
    """How much of each query goes to the strong pool if the highest `share` of scores does: 1, 0, or a part in a tie.

    Shape [n]; sums to share * n. Equal scores are treated alike, so that neither order nor luck favours a router.
    """
    order = -np.sort(-scores)
    target = share * len(scores)
    if target <= 0:
        return np.zeros(len(scores))
    cutoff = order[min(len(scores) - 1, int(np.ceil(target - 1e-9)) - 1)]
    above, tied = scores > cutoff, scores == cutoff
    parts: Floats = above + tied * ((target - above.sum()) / tied.sum())
    return parts


def _split(served: Artefact, dataset: Dataset, plan: RefreshPlan) -> tuple[Dataset, Dataset]:
    """What is learned from, and a hold-out: new to the version in service and unlike what is learned from."""
    fold = folds(dataset, plan.held_out_of, plan.seed)
    known = learned_from(served, dataset)
    held = np.setdiff1d(np.flatnonzero(fold == 0), known)
    if len(held) < FEWEST_HELD_OUT:
        raise DataError(
            f"{plan.source}: {len(held)} of {len(dataset):,} queries can be held out ({len(known):,} were known to "
            f"{served.registered.version} before); at least {FEWEST_HELD_OUT} are needed to compare: collect more"
        )
    return _without_battles_of(dataset.take(np.flatnonzero(fold != 0)), dataset.take(held)), dataset.take(held)


def _without_battles_of(learn: Dataset, held: Dataset) -> Dataset:
    """Drops further battles about held-out queries, which must not be learned from."""
    if learn.preferences is None:
        return learn
    rows = np.flatnonzero(~np.isin(text_hashes(learn.preferences.queries), text_hashes(held.queries)))
    return replace(learn, preferences=learn.preferences.take(rows) if len(rows) else None)


def _run_of(served: Artefact, plan: RefreshPlan) -> TrainingRun:
    """The training of the version in service, on other data; of one that ships, its kind and parameters."""
    assert served.folder is not None
    run: Mapping[str, Any] = read_run(served.folder)
    router = served.registered.router
    if run:
        known = {f.name for f in fields(TrainingRun)}
        kept = {key: value for key, value in run.items() if key in known and key not in ARTEFACT_KEYS}
        return replace(TrainingRun(**kept), data=plan.source, preferences=None)
    params = {key: value for key, value in router.params.items() if key != "seed"}
    return TrainingRun(router.name, plan.source, params=params, seed=plan.seed, folds=default_folds(router.name))


def _apgr(scores: Floats, weak: Floats, strong: Floats) -> float | None:
    curve = cost_quality_curve(scores, weak, strong)
    return None if curve.weak == curve.strong else average_pgr(curve)
