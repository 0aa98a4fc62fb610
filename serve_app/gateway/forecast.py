"""What a router's calibration data say of each threshold: the curve with its intervals, and a prediction for one."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serve_app.config.tree import Config
from serve_app.decision.threshold import Calibration
from serve_app.errors import ConfigError
from serve_app.gateway.reload import Reloader
from serve_app.pools.base import Pool
from serve_app.replay.bootstrap_curve import (
    LEVEL,
    Prices,
    ThresholdFigures,
    point_json,
    spread_thresholds,
    threshold_figures,
)
from serve_app.replay.log import DecisionColumns
from serve_app.replay.policy import STRATEGY
from serve_app.replay.report import replay_json
from serve_app.replay.run import ReplayPlan, refusal
from serve_app.routing.serving.served import ServedRouter
from serve_app.store.filtering import DecisionFilter
from serve_app.training.evaluation import interval_json

_POINTS: Final = 61
_CURVE_ROUNDS: Final = 400
_ROUNDS: Final = 1000
_CACHED: Final = 16
_LOGGED: Final = 10_000
"""Latest decisions that a prediction is made from; `jethro replay` takes all."""
_METHOD: Final = "percentile bootstrap over the calibration queries, {} resamples"


class RouterForecast:
    """Computes in the calling thread, half a second for 20,000 queries; curves are remembered by router version."""

    def __init__(self, config: Config, routers: Reloader, pools: Mapping[str, Pool]) -> None:
        self._config = config
        self._routers = routers
        self._pools = pools
        self._lock = threading.Lock()
        self._curves: OrderedDict[str, ThresholdFigures] = OrderedDict()

    def curve(self, name: str, current: float) -> dict[str, Any]:
        """JSON-ready. Raises NotFound."""
        served = self._routers.router(name)
        figures = next(f for f in self._routers.figures() if f.name == name)
        about = {"kind": figures.kind, "warning": figures.warning}
        calibration = served.registered.calibration
        if calibration is None:
            return {**about, "curve": None}
        with self._lock:  # one at a time: each holds a core
            curve = self._curve(served, calibration)
            here = threshold_figures(calibration, [current], self._prices(served), rounds=_CURVE_ROUNDS)
        points = [point_json(curve, i) for i in range(len(curve.thresholds))]
        ends = {"current": point_json(here, 0), "weak": points[-1], "strong": points[0]}
        return {**about, "curve": {**self._data(served, calibration, _CURVE_ROUNDS), "points": points, **ends}}

    def predict(self, name: str, threshold: float, current: float) -> dict[str, Any]:
        """JSON-ready. Raises NotFound."""
        served = self._routers.router(name)
        about = {"router": name, "version": served.version, "threshold": threshold, "current_threshold": current}
        calibration = served.registered.calibration
        about |= self._of_log(served, threshold, current)
        if calibration is None:
            return {**about, "calibration": None}
        with self._lock:
            found = threshold_figures(calibration, [current, threshold], self._prices(served), rounds=_ROUNDS)
        change = {figure: interval_json(value) for figure, value in found.change(0, 1).items()}
        compared = {"predicted": point_json(found, 1), "current": point_json(found, 0), "change": change}
        return {**about, "calibration": {**self._data(served, calibration, _ROUNDS), **compared}}

    def _of_log(self, served: ServedRouter, threshold: float, current: float) -> dict[str, Any]:
        """The latest logged decisions of this router version, replayed at the threshold; or why there are none."""
        if (why := refusal(self._config, served.registered)) is not None:
            return {"log": None, "log_unavailable": why}
        plan = ReplayPlan.at(self._config, served.registered, threshold, current)
        which = DecisionFilter(router=served.name, strategy=STRATEGY, status="completed", policy=f"{served.version}@")
        with self._lock:
            try:
                log = DecisionColumns.of_file(Path(self._config.store.path), which, newest=_LOGGED)
            except ConfigError as e:
                return {"log": None, "log_unavailable": str(e)}
            if not len(log):
                return {"log": None, "log_unavailable": "no decision of this router version is in the log yet"}
            return {"log": replay_json(plan.replay(log), plan), "log_unavailable": None}

    def _curve(self, served: ServedRouter, calibration: Calibration) -> ThresholdFigures:
        if served.version not in self._curves:
            thresholds = spread_thresholds(calibration.scores, _POINTS)
            found = threshold_figures(calibration, thresholds, self._prices(served), rounds=_CURVE_ROUNDS)
            self._curves[served.version] = found
            if len(self._curves) > _CACHED:
                self._curves.popitem(last=False)
        self._curves.move_to_end(served.version)
        return self._curves[served.version]

    def _applies(self, served: ServedRouter) -> bool:
        """Whether the calibration data are answers of the two models in service."""
        pair = tuple(self._pools[name].model for name in ("small", "large") if name in self._pools)
        return served.registered.models == pair

    def _prices(self, served: ServedRouter) -> Prices | None:
        """Of the pools, if the answers are theirs and any of the two has a price."""
        if not self._applies(served):
            return None
        prices = (self._pools["small"].price, self._pools["large"].price)
        return prices if any(p.input_usd_per_million or p.output_usd_per_million for p in prices) else None

    def _data(self, served: ServedRouter, calibration: Calibration, rounds: int) -> dict[str, Any]:
        weak, strong = served.registered.models or ("", "")
        costs = "prices" if self._prices(served) is not None else "recorded" if calibration.has_costs else "none"
        return {
            "queries": len(calibration),
            "level": LEVEL,
            "method": _METHOD.format(rounds),
            "models": {"weak": weak, "strong": strong},
            "applies": self._applies(served),
            "costs": costs,
        }
