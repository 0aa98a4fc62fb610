"""Pools to simulate."""

from serve_app.autoscaling.comparison import LIMITS, MODELS, fitted, reference
from serve_app.autoscaling.traces import PoolCall
from serve_app.config import Config

POOL = {"engine": {"kind": "transformers", "path": "lab:small"}}


def test_the_reference_pair_stands_without_a_config() -> None:
    scenario = reference()
    assert scenario.models == MODELS and scenario.limits == LIMITS
    assert all(LIMITS[n].concurrency == MODELS[n].concurrency for n in MODELS)
    assert all(LIMITS[n].warm_up_s == MODELS[n].warm_up_s for n in MODELS)


def test_a_config_brings_bounds_concurrency_and_warm_up() -> None:
    replicas = {"min": 0, "max": 7, "concurrency": 5, "warm_up_s": 90, "headroom": 2, "hold_s": 30, "idle_s": 45}
    pools = {"small": {**POOL, "model": "s"}, "large": {**POOL, "model": "l", "replicas": replicas}}
    scenario = reference(Config.model_validate({"pools": pools}))
    limits, model = scenario.limits["large"], scenario.models["large"]
    assert (limits.min_replicas, limits.max_replicas, limits.concurrency, limits.warm_up_s) == (0, 7, 5, 90)
    assert (limits.headroom, limits.hold_s, limits.idle_s) == (2, 30, 45)
    assert (model.concurrency, model.warm_up_s, model.token_s) == (5, 90, MODELS["large"].token_s)
    assert scenario.limits["small"].max_replicas == 1


def test_only_pools_with_enough_answered_calls_are_fitted() -> None:
    made = [PoolCall(float(i), "small", 10.0 + i, 0.0, 0.2, 0.2 + 0.05 * (10 + i)) for i in range(30)]
    few = [PoolCall(float(i), "large", 10.0, 0.0, 0.2, 0.4) for i in range(3)]
    scenario, counts = fitted(reference(), [*made, *few])
    assert counts == {"small": 30}
    assert round(scenario.models["small"].prefill_s, 3) == 0.2 and round(scenario.models["small"].token_s, 4) == 0.05
    assert scenario.models["large"] == MODELS["large"]
