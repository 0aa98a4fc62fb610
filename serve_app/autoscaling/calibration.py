"""Ties the simulator to real runs: pool models fitted to their calls, and their traffic replayed and compared.

`reference` has the simulated pools: a usual pair, or those of a config; `fitted` sets the times of real calls.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.autoscaling.comparison import Scenario
from serve_app.autoscaling.policy import PoolLimits, limits_of
from serve_app.autoscaling.simulator import Control, PoolModel, Rule, SimulationResult, simulate
from serve_app.autoscaling.traces import POOLS, PoolCall, Trace, trace_of
from serve_app.config import Config
from serve_app.errors import DataError

_CONTROL = Control()
FEWEST = 20
"""Calls below which nothing is fitted."""
_SLOWDOWNS = np.concatenate([[0.0], np.geomspace(1e-4, 10.0, 400)])


@dataclass(frozen=True, slots=True)
class Recording:
    """A real run: its calls, and the replicas that ran (not: were targeted) by pool at each of `at_s`."""

    calls: tuple[PoolCall, ...]
    at_s: tuple[float, ...]
    replicas: Mapping[str, tuple[float, ...]]
    duration_s: float

    def __post_init__(self) -> None:
        if not self.calls or not self.at_s:
            raise DataError("a recording needs calls and replicas over time")
        if any(len(series) != len(self.at_s) for series in self.replicas.values()):
            raise DataError("a recording needs the replicas of each pool at each of its times")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises DataError."""
        try:
            body = json.loads(path.read_text("utf-8"))
            calls = tuple(PoolCall(**_numbers(call)) for call in body["calls"])
            replicas = {name: tuple(series) for name, series in body["replicas"].items()}
            return cls(calls, tuple(body["at_s"]), replicas, float(body["duration_s"]))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(
                f"{path}: is no recording of a scaling run ({e}); make one with benchmarks.scaling_live"
            ) from e

    def save(self, path: Path) -> None:
        """Write it as JSON; what is nan becomes null."""
        calls = [{k: None if v != v else v for k, v in asdict(call).items()} for call in self.calls]
        body = {"calls": calls, "at_s": self.at_s, "replicas": dict(self.replicas), "duration_s": self.duration_s}
        path.write_text(json.dumps(body, allow_nan=False) + "\n", "utf-8")

    def trace(self) -> Trace:
        """The traffic, in order of arrival."""
        return trace_of(self.calls, "recording", self.duration_s)

    def hours(self, pool: str) -> float:
        """Replica-hours; each count holds until the next."""
        ends = np.append(self.at_s[1:], max(self.duration_s, self.at_s[-1]))
        return float(np.sum(np.array(self.replicas[pool]) * (ends - np.array(self.at_s))) / 3600)

    def ttft(self, quantile: float, pool: str) -> float:
        """A quantile of the time to first token as callers saw it, seconds; nan if no call was answered."""
        seen = np.array([call.waited_s + call.ttft_s for call in self.calls if call.pool == pool])
        seen = seen[np.isfinite(seen)]
        return float(np.quantile(seen, quantile)) if len(seen) else float("nan")


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
    a = np.concatenate(
        [
            np.stack([slower / first, np.zeros_like(first)], axis=1),
            np.stack([slower / whole, tokens * slower / whole], axis=1),
        ]
    )
    found, *_ = np.linalg.lstsq(a, np.ones(len(a)))
    found = np.maximum(found, 0.0)
    return float(np.sum((a @ found - 1.0) ** 2)), float(found[0]), float(found[1])


@dataclass(frozen=True, slots=True)
class PredictedFigure:
    """One figure, predicted and measured."""

    figure: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured; 0 where both are 0."""
        return 0.0 if self.predicted == self.measured else abs(self.predicted / self.measured - 1.0)


def replay(
    recording: Recording, models: Mapping[str, PoolModel], rule: Rule, control: Control = _CONTROL
) -> tuple[SimulationResult, list[PredictedFigure]]:
    """The recorded traffic under `rule` from the recorded first replicas, and how far it is from what was measured."""
    names = ("small", "large")
    initial = {name: int(recording.replicas[name][0]) for name in names}
    outcome = simulate(recording.trace(), models, rule, initial, control, names)
    found = []
    for name, strong in zip(names, (False, True), strict=True):
        found.append(PredictedFigure(f"{name}: replica-hours", outcome.replica_hours[name], recording.hours(name)))
        for q in (0.5, 0.95):
            figure = f"{name}: TTFT p{100 * q:.0f}, s"
            found.append(PredictedFigure(figure, outcome.ttft(q, strong), recording.ttft(q, name)))
    return outcome, found


def _numbers(call: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None else v for k, v in call.items()}


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
