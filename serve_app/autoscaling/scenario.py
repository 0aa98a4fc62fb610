"""Pools to simulate: the reference pair, or those of a config, with the times of real calls where there are some."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from serve_app.autoscaling.calibration import FEWEST, fit
from serve_app.autoscaling.calls import POOLS, Call
from serve_app.autoscaling.comparison import Scenario
from serve_app.autoscaling.limits import limits_of
from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.simulator import PoolModel
from serve_app.config import Config

MODELS: Mapping[str, PoolModel] = {
    "small": PoolModel(concurrency=16, prefill_s=0.03, token_s=0.004, warm_up_s=10.0),
    "large": PoolModel(concurrency=8, prefill_s=0.15, token_s=0.02, warm_up_s=45.0),
}
"""A pair as they are met on GPUs: the large model five times slower a token, with weights that take longer to load."""
LIMITS: Mapping[str, PoolLimits] = {
    "small": PoolLimits(min_replicas=1, max_replicas=20, concurrency=16, warm_up_s=10.0),
    "large": PoolLimits(min_replicas=0, max_replicas=40, concurrency=8, warm_up_s=45.0),
}


def reference(config: Config | None = None) -> Scenario:
    """The reference pair; with a config, its pools' bounds, concurrency and warm-up in their place."""
    if config is None:
        return Scenario(dict(MODELS), dict(LIMITS))
    models, limits = {}, {}
    for name in POOLS:
        bounds = config.pools[name].replicas
        limits[name] = limits_of(bounds)
        concurrency = max(1, round(bounds.concurrency))
        models[name] = replace(MODELS[name], concurrency=concurrency, warm_up_s=bounds.warm_up_s)
    return Scenario(models, limits)


def fitted(scenario: Scenario, calls: Sequence[Call]) -> tuple[Scenario, dict[str, int]]:
    """The scenario with the times of these calls, for each pool that has enough of them; and the calls fitted to."""
    models, counts = dict(scenario.models), {}
    for name in scenario.models:
        answered = [c for c in calls if c.pool == name and np.isfinite(c.ttft_s + c.service_s)]
        if len(answered) >= FEWEST:
            models[name] = fit(answered, models[name])
            counts[name] = len(answered)
    return replace(scenario, models=models), counts
