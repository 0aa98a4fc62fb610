"""A recorded scaling run, and its traffic replayed in the simulator and compared with what was measured."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from serve_app.autoscaling.simulator import Control, PoolModel, Rule, SimulationResult, simulate
from serve_app.autoscaling.traces import PoolCall, Trace, trace_of
from serve_app.errors import DataError

_CONTROL = Control()


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
