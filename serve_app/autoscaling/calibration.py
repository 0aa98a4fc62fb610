"""The pools of a simulation: a usual pair, or those of a config; and their times, fitted to real calls."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from serve_app.arrays import Floats
from serve_app.autoscaling.comparison import Scenario
from serve_app.autoscaling.policy import PoolLimits, limits_of
from serve_app.autoscaling.simulator import PoolModel
from serve_app.autoscaling.traces import POOLS, PoolCall
from serve_app.config import Config
from serve_app.errors import DataError

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
