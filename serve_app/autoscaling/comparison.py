"""Runs a trace under every rule and says what ours saves against Serve's default.

Serve's rule has one dial that trades hours for speed, `target_ongoing_requests`. It is swept, so that ours is compared
with the default at equal goodput (what would the default pay to be as good?) and at equal hours (how fast would it be
for the same money?), by linear interpolation on the default's own frontier. Beyond the frontier's ends its last point
stands, which favours the default: it is then less good than ours, or costs more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serve_app.autoscaling.oracle import OracleRule
from serve_app.autoscaling.policy import PoolLimits, Settings
from serve_app.autoscaling.request_count import Delays, Reports, RequestCountRule
from serve_app.autoscaling.rules import QueueRule, ShareRule
from serve_app.autoscaling.simulator import Control, Outcome, PoolModel, Rule, simulate
from serve_app.autoscaling.traces import Trace

OURS, DEFAULT, QUEUE, ORACLE = "routed share", "Serve's default", "queue", "oracle"
RAY_TARGET = 2.0
"""Ray's own `target_ongoing_requests`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The pools, what a good answer is, and how the default is swept (`shares` of a replica's concurrency)."""

    models: Mapping[str, PoolModel]
    limits: Mapping[str, PoolLimits]
    settings: Settings = field(default_factory=Settings)
    control: Control = field(default_factory=Control)
    slo_s: float = 1.0
    shares: Sequence[float] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25)
    delays: Delays = field(default_factory=Delays)
    reports: Reports = field(default_factory=Reports)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a rule gave on a trace: replica-hours by pool, TTFT in seconds, shares of all queries."""

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
    def of(cls, outcome: Outcome, slo_s: float) -> "Figures":
        """Of one run."""
        hours, target = outcome.replica_hours, outcome.timeline.target["large"]
        times = [outcome.ttft(q, strong) for strong in (True, False) for q in (0.5, 0.95, 0.99)]
        shed = outcome.shed / max(1, len(outcome.trace))
        return cls(
            hours["small"], hours["large"], *times, outcome.goodput(slo_s), shed, float((np.diff(target) != 0).sum())
        )

    @classmethod
    def mean(cls, runs: Sequence["Figures"]) -> "Figures":
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
class Comparison:
    """One kind of trace: figures by rule, the default's by target (of the large pool), and runs of the first seed."""

    trace: str
    rules: Mapping[str, Figures]
    frontier: Mapping[float, Figures]
    runs: Mapping[str, Outcome] = field(repr=False)

    @property
    def saving(self) -> Saving:
        """Against the default's frontier."""
        return saving(self.rules[OURS], list(self.frontier.values()))

    @property
    def plain_saving(self) -> Saving:
        """Against the default as it comes."""
        return saving(self.rules[OURS], [self.rules[DEFAULT]])


def warm_start(trace: Trace, scenario: Scenario) -> dict[str, int]:
    """Replicas that the trace needs when it begins: no rule pays for a cold start that it did not cause."""
    oracle = OracleRule(trace, scenario.models, scenario.limits)
    return {name: max(1, oracle.need(name, 0.0)) for name in scenario.models}


def compare(
    traces: Sequence[Trace], scenario: Scenario, progress: Callable[[str], None] = lambda done: None
) -> Comparison:
    """One kind of trace drawn with several seeds, under every rule."""
    found: dict[str, list[Figures]] = {}
    swept: dict[float, list[Figures]] = {}
    runs: dict[str, Outcome] = {}
    for trace in traces:
        initial = warm_start(trace, scenario)
        for name, rule in _rules(trace, scenario).items():
            outcome = simulate(trace, scenario.models, rule, initial, scenario.control)
            found.setdefault(name, []).append(Figures.of(outcome, scenario.slo_s))
            runs.setdefault(name, outcome)
            progress(f"{trace.name}: {name}")
        for share in scenario.shares:
            targets = {name: share * model.concurrency for name, model in scenario.models.items()}
            outcome = simulate(trace, scenario.models, _default(scenario, targets), initial, scenario.control)
            swept.setdefault(targets["large"], []).append(Figures.of(outcome, scenario.slo_s))
            progress(f"{trace.name}: {DEFAULT}, target {targets['large']:g}")
    rules = {name: Figures.mean(figures) for name, figures in found.items()}
    return Comparison(traces[0].name, rules, {t: Figures.mean(f) for t, f in swept.items()}, runs)


def saving(ours: Figures, default: Sequence[Figures]) -> Saving:
    """What ours saves against the frontier of these points."""
    hours = np.array([f.large_hours for f in default])
    order = np.argsort(hours, kind="stable")
    hours = hours[order]
    goodput = np.maximum.accumulate(np.array([f.goodput for f in default])[order])
    ttft = np.minimum.accumulate(np.array([f.strong_p95_s for f in default])[order])
    # np.interp wants what it looks up to ascend: where more hours buy nothing, the fewest hours stand
    rises = np.concatenate([[True], np.diff(goodput) > 0])
    their_hours = float(np.interp(ours.goodput, goodput[rises], hours[rises]))
    their_ttft = float(np.interp(ours.large_hours, hours, ttft))
    return Saving(
        hours=1.0 - ours.large_hours / their_hours,
        ttft=1.0 - ours.strong_p95_s / their_ttft,
        goodput_out_of_reach=bool(ours.goodput > goodput[-1]),
        hours_out_of_reach=bool(ours.large_hours < hours[0]),
    )


def _rules(trace: Trace, scenario: Scenario) -> dict[str, Rule]:
    return {
        OURS: ShareRule(scenario.limits, scenario.settings),
        DEFAULT: _default(scenario, dict.fromkeys(scenario.models, RAY_TARGET)),
        QUEUE: QueueRule(scenario.limits),
        ORACLE: OracleRule(trace, scenario.models, scenario.limits),
    }


def _default(scenario: Scenario, targets: Mapping[str, float]) -> RequestCountRule:
    return RequestCountRule(scenario.limits, targets, scenario.delays, scenario.reports)
