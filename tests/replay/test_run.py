"""Which router and threshold a replay is of, and what cannot be replayed."""

from dataclasses import replace

import pytest

from serve_app.config import load
from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.replay.run import ReplayPlan, refusal
from serve_app.routing.kinds.best_route import BestRouteRouter
from serve_app.routing.registry import Registry, load_router
from tests.routing.artefacts import config, register


def test_the_configs_router_at_its_own_threshold_by_default(tmp_path):
    registry = Registry(tmp_path)
    first, second = register(registry, 1), register(registry, 2, use=False)
    tree = config(tmp_path, router="mine")
    plan = ReplayPlan.of(tree)
    assert (plan.policy.version, plan.policy.threshold) == (first, plan.in_force)
    other = ReplayPlan.of(tree, f"mine@{second}")
    assert (other.policy.version, other.in_force, other.applies) == (second, None, True)
    assert ReplayPlan.of(tree, threshold=0.9).policy.threshold == 0.9


@pytest.mark.parametrize(("rule", "value"), [("threshold", 0.31), ("strong_share", 0.25)])
def test_a_rule_of_the_config_is_in_force_until_an_operator_chooses(tmp_path, rule, value):
    registry = Registry(tmp_path)
    register(registry, 1)
    tree = config(tmp_path, router="mine", **{rule: value})
    plan = ReplayPlan.of(tree)
    assert plan.in_force is not None and (rule != "threshold" or plan.in_force == 0.31)
    registry.use("mine", threshold=0.77)  # by command: the config goes before it
    assert ReplayPlan.of(tree).in_force == plan.in_force
    assert ReplayPlan.of(config(tmp_path, router="mine")).in_force == 0.77


def test_a_router_of_other_models_makes_no_promise_and_says_so(tmp_path):
    plan = ReplayPlan.of(config(tmp_path), "complexity")
    assert not plan.applies and plan.note is not None and "guess" in plan.note


def test_classes_that_the_large_pool_may_not_see(tmp_path):
    tree = config(tmp_path).model_dump()
    for place, closed in (("local", []), ("private", ["local"]), ("public", ["local", "private"])):
        tree["pools"]["large"]["place"] = place
        assert ReplayPlan.of(Config.model_validate(tree), "random").local_only == closed


def test_what_no_threshold_decides_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="small model alone"):
        ReplayPlan.of(load("lab", env={}, small_only=True), "random")
    best = config(tmp_path).model_copy(update={"routing": config(tmp_path, best_of={}).routing})
    found = replace(load_router("complexity"), loaded=BestRouteRouter)
    assert "routing.best_of" in (refusal(best, found) or "")
    assert refusal(config(tmp_path), found) is None
