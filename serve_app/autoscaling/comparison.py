"""Runs a trace under every rule, and computes what ours saves against Serve's default.

Serve's rule has one dial that trades hours for speed, `target_ongoing_requests`. It is swept, so that ours is compared
with the default at equal goodput (what would the default pay to be as good?) and at equal hours (how fast would it be
for the same money?), by linear interpolation on the default's own frontier. Where it is at no setting as good as ours,
its best point stands. Where it is at no setting as cheap, ours is made to cost as much by holding replicas longer
(`hold_s`, ours to dial), and compared there.

The pools are a usual pair, or those of a config; their times may be fitted to real calls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.autoscaling.policy import PoolLimits, ScalingSettings, limits_of
from serve_app.autoscaling.rules import Delays, OracleRule, QueueRule, ReportTimes, RequestCountRule, ShareRule
from serve_app.autoscaling.simulator import Control, PoolModel, Rule, SimulationResult, simulate
from serve_app.autoscaling.traces import POOLS, PoolCall, Trace
from serve_app.config import Config
from serve_app.errors import DataError

OURS, DEFAULT, QUEUE, ORACLE = "routed share", "Serve's default", "queue", "oracle"
RULES = (OURS, DEFAULT, QUEUE, ORACLE)
RAY_TARGET = 2.0
"""Ray's own `target_ongoing_requests`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The pools, what a good answer is, and how the default is swept (`shares` of a replica's concurrency)."""

    models: Mapping[str, PoolModel]
    limits: Mapping[str, PoolLimits]
    settings: ScalingSettings = field(default_factory=ScalingSettings)
    control: Control = field(default_factory=Control)
    slo_s: float = 1.0
    shares: Sequence[float] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25)
    holds_s: Sequence[float] = (150.0, 300.0, 600.0)
    delays: Delays = field(default_factory=Delays)
    reports: ReportTimes = field(default_factory=ReportTimes)


@dataclass(frozen=True, slots=True)
class RuleFigures:
    """Results of a rule on a trace: replica-hours by pool, TTFT in seconds, shares of all queries."""

    small_hours: float
    large_hours: float
    strong_p50_s: float
    strong_p95_s: float
    strong_p99_s: float
    weak_p50_s: float
    weak_p95_s: float
    weak_p99_s: float
    goodput: float
    shed: float
    changes: float
    """How often the target of the large pool changed."""

    @classmethod
    def of(cls, outcome: SimulationResult, slo_s: float) -> "RuleFigures":
        """Of one run."""
        hours, target = outcome.replica_hours, outcome.timeline.target["large"]
        ttfts = [outcome.ttft(quantile, strong) for strong in (True, False) for quantile in (0.5, 0.95, 0.99)]
        shed, changes = outcome.shed / max(1, len(outcome.trace)), float((np.diff(target) != 0).sum())
        figures = [hours["small"], hours["large"], *ttfts, outcome.goodput(slo_s), shed, changes]
        return cls(*figures)

    @classmethod
    def mean(cls, runs: Sequence["RuleFigures"]) -> "RuleFigures":
        """Figure by figure, over runs that differ in their seed."""
        return cls(*(float(np.mean([getattr(run, name) for run in runs])) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Saving:
    """Shares saved against the default: large replica-hours at equal goodput, strong TTFT p95 at equal hours.

    `goodput_out_of_reach`: the default is at no setting as good as ours. `hours_out_of_reach`: at none as cheap.
    """

    hours: float
    ttft: float
    goodput_out_of_reach: bool
    hours_out_of_reach: bool

    @property
    def reached(self) -> bool:
        """A quarter saved on one, and nowhere worse than by a twentieth."""
        return max(self.hours, self.ttft) >= 0.25 and min(self.hours, self.ttft) >= -0.05


@dataclass(frozen=True, slots=True)
class RuleComparison:
    """One kind of trace: figures by rule, the default's by target (of the large pool), ours by `hold_s`, and
    the runs of the first seed."""

    trace: str
    rules: Mapping[str, RuleFigures]
    frontier: Mapping[float, RuleFigures]
    holds: Mapping[float, RuleFigures]
    runs: Mapping[str, SimulationResult] = field(repr=False)

    @property
    def saved_as_it_comes(self) -> float:
        """Share of the large replica-hours of Serve's unswept default; nan if our goodput is lower by a thousandth."""
        ours, default = self.rules[OURS], self.rules[DEFAULT]
        as_good = ours.goodput >= default.goodput - 0.001
        return 1.0 - ours.large_hours / default.large_hours if as_good else float("nan")

    @property
    def saving(self) -> Saving:
        """Against the default's frontier."""
        return saving(self.rules[OURS], list(self.frontier.values()), list(self.holds.values()))


def warm_start(trace: Trace, scenario: Scenario) -> dict[str, int]:
    """Replicas that the trace needs at its start: no rule pays for a cold start that it did not cause."""
    oracle = OracleRule(trace, scenario.models, scenario.limits)
    return {name: max(1, oracle.need(name, 0.0)) for name in scenario.models}


def compare(
    traces: Sequence[Trace], scenario: Scenario, progress: Callable[[str], None] = lambda done: None
) -> RuleComparison:
    """One kind of trace drawn with several seeds, under every rule; `progress` is called `runs_of` times a trace."""
    found: dict[str, list[RuleFigures]] = {}
    runs: dict[str, SimulationResult] = {}
    swept = {share * scenario.models["large"].concurrency: f"target {share:g}" for share in scenario.shares}
    held = {hold_s: f"hold {hold_s:g}" for hold_s in scenario.holds_s}
    for trace in traces:
        initial = warm_start(trace, scenario)
        for name, rule in _rules(trace, scenario).items():
            outcome = simulate(trace, scenario.models, rule, initial, scenario.control)
            found.setdefault(name, []).append(RuleFigures.of(outcome, scenario.slo_s))
            if name in RULES:
                runs.setdefault(name, outcome)
            progress(f"{trace.name}: {name}")
    means = {name: RuleFigures.mean(figures) for name, figures in found.items()}
    return RuleComparison(
        traces[0].name,
        {name: means[name] for name in RULES},
        {target: means[name] for target, name in swept.items()},
        {hold_s: means[name] for hold_s, name in held.items()},
        runs,
    )


def runs_of(scenario: Scenario) -> int:
    """Simulations that one trace takes."""
    return len(RULES) + len(scenario.shares) + len(scenario.holds_s)


def saving(ours: RuleFigures, default: Sequence[RuleFigures], held: Sequence[RuleFigures] = ()) -> Saving:
    """What ours saves against the frontier of these points; `held`: ours with longer holds, for its equal hours."""
    hours, goodput, ttft = _frontier(default)
    # np.interp requires ascending points: where more hours buy nothing, the fewest hours count
    rises = np.concatenate([[True], np.diff(goodput) > 0])
    their_hours = float(np.interp(ours.goodput, goodput[rises], hours[rises]))
    at_hours = max(ours.large_hours, hours[0])
    our_hours, _, our_ttft = _frontier([ours, *held])
    return Saving(
        hours=1.0 - ours.large_hours / their_hours,
        ttft=1.0 - float(np.interp(at_hours, our_hours, our_ttft)) / float(np.interp(at_hours, hours, ttft)),
        goodput_out_of_reach=bool(ours.goodput > goodput[-1]),
        hours_out_of_reach=bool(ours.large_hours < hours[0]),
    )


def _frontier(points: Sequence[RuleFigures]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Hours ascending, and the best goodput and strong TTFT p95 that so many hours or fewer buy."""
    hours = np.array([f.large_hours for f in points])
    order = np.argsort(hours, kind="stable")
    goodput = np.maximum.accumulate(np.array([f.goodput for f in points])[order])
    ttft = np.minimum.accumulate(np.array([f.strong_p95_s for f in points])[order])
    return hours[order], goodput, ttft


def _rules(trace: Trace, scenario: Scenario) -> dict[str, Rule]:
    """Every rule for one trace, the settings that are swept under names of their own."""
    rules: dict[str, Rule] = {
        OURS: ShareRule(scenario.limits, scenario.settings),
        DEFAULT: _default(scenario, dict.fromkeys(scenario.models, RAY_TARGET)),
        QUEUE: QueueRule(scenario.limits),
        ORACLE: OracleRule(trace, scenario.models, scenario.limits),
    }
    for share in scenario.shares:
        targets = {name: share * model.concurrency for name, model in scenario.models.items()}
        rules[f"target {share:g}"] = _default(scenario, targets)
    for hold_s in scenario.holds_s:
        limits = {name: replace(limit, hold_s=hold_s) for name, limit in scenario.limits.items()}
        rules[f"hold {hold_s:g}"] = ShareRule(limits, scenario.settings)
    return rules


def _default(scenario: Scenario, targets: Mapping[str, float]) -> RequestCountRule:
    return RequestCountRule(scenario.limits, targets, scenario.delays, scenario.reports)


FEWEST = 20
"""Calls below which nothing is fitted."""
_SLOWDOWNS = np.concatenate([[0.0], np.geomspace(1e-4, 10.0, 400)])


def fit(calls: Sequence[PoolCall], model: PoolModel) -> PoolModel:
    """`model` with the times of these calls by least squares, in the form of `PoolModel.times`.

    The model is linear for each slowdown, so the slowdown is searched and the other parameters solved (variable
    projection, Golub & Pereyra 1973). Errors are relative, as long calls would outweigh all others. Raises DataError
    for too few calls.
    """
    rows = [c for c in calls if np.isfinite(c.ttft_s) and np.isfinite(c.service_s) and c.service_s > 0 and c.ttft_s > 0]
    if len(rows) < FEWEST:
        raise DataError(f"{len(rows)} answered calls: a pool is fitted to at least {FEWEST}")
    tokens, others = np.array([c.tokens for c in rows]), np.array([c.others for c in rows])
    first, whole = np.array([c.ttft_s for c in rows]), np.array([c.service_s for c in rows])
    solved = [_solve(float(s), tokens, others, first, whole) for s in _SLOWDOWNS]
    best = int(np.argmin([error for error, _, _ in solved]))
    _, prefill_s, token_s = solved[best]
    return replace(model, prefill_s=prefill_s, token_s=token_s, slowdown=float(_SLOWDOWNS[best]))


def _solve(slowdown: float, tokens: Floats, others: Floats, first: Floats, whole: Floats) -> tuple[float, float, float]:
    """Squared relative error, prefill and token seconds at one slowdown."""
    slower = 1.0 + slowdown * others
    of_first = np.stack([slower / first, np.zeros_like(first)], axis=1)
    a = np.concatenate([of_first, np.stack([slower / whole, tokens * slower / whole], axis=1)])
    found, *_ = np.linalg.lstsq(a, np.ones(len(a)))
    found = np.maximum(found, 0.0)
    return float(np.sum((a @ found - 1.0) ** 2)), float(found[0]), float(found[1])


MODELS: Mapping[str, PoolModel] = {
    "small": PoolModel(concurrency=16, prefill_s=0.03, token_s=0.004, warm_up_s=10.0),
    "large": PoolModel(concurrency=8, prefill_s=0.15, token_s=0.02, warm_up_s=45.0),
}
"""A usual pair on GPUs: the large model is five times slower per token, and takes longer to load."""
LIMITS: Mapping[str, PoolLimits] = {
    "small": PoolLimits(min_replicas=1, max_replicas=20, concurrency=16, warm_up_s=10.0),
    "large": PoolLimits(min_replicas=0, max_replicas=40, concurrency=8, warm_up_s=45.0),
}


def reference(config: Config | None = None) -> Scenario:
    """The reference pair; with a config, with its pools' bounds, concurrency and warm-up."""
    if config is None:
        return Scenario(dict(MODELS), dict(LIMITS))
    models, limits = {}, {}
    for name in POOLS:
        bounds = config.pools[name].replicas
        limits[name] = limits_of(bounds)
        concurrency = max(1, round(bounds.concurrency))
        models[name] = replace(MODELS[name], concurrency=concurrency, warm_up_s=bounds.warm_up_s)
    return Scenario(models, limits)


def fitted(scenario: Scenario, calls: Sequence[PoolCall]) -> tuple[Scenario, dict[str, int]]:
    """The scenario with the times of these calls, for each pool that has enough of them; and the calls fitted to."""
    models, counts = dict(scenario.models), {}
    for name in scenario.models:
        answered = [c for c in calls if c.pool == name and np.isfinite(c.ttft_s + c.service_s)]
        if len(answered) >= FEWEST:
            models[name] = fit(answered, models[name])
            counts[name] = len(answered)
    return replace(scenario, models=models), counts
