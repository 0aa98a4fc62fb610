"""Rules of the tree that no single field can hold."""

import pytest
from pydantic import ValidationError

from serve_app.config.pools import PoolConfig, ReplicasConfig
from serve_app.config.strategies import RoutingConfig
from serve_app.config.tree import Config, KeyConfig, ServerConfig

ENGINE = {"kind": "transformers", "path": "lab:small"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_localhost_needs_no_keys(host):
    assert ServerConfig(host=host).keys == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.0.0.1.evil.example", "localhost.example"])
def test_beyond_localhost_keys_are_required_unless_said(host):
    with pytest.raises(ValidationError, match="without keys"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, allow_unauthenticated=True)
    assert ServerConfig(host=host, keys=(KeyConfig(name="a", env="A_KEY"),))


@pytest.mark.parametrize("given", [2, {"min": 2, "max": 2}])
def test_a_number_of_replicas_means_exactly_that_many(given):
    pool = PoolConfig.model_validate({"model": "m", "engine": ENGINE, "replicas": given})
    assert pool.replicas == ReplicasConfig(min=2, max=2)


@pytest.mark.parametrize("given", [0, -1, True, "2x", None])
def test_other_replicas_are_refused(given):
    with pytest.raises(ValidationError):
        PoolConfig.model_validate({"model": "m", "engine": ENGINE, "replicas": given})


@pytest.mark.parametrize("way", ["threshold", "strong_share", "max_quality_drop"])
def test_one_way_to_a_threshold_is_enough_and_two_are_too_many(way):
    assert getattr(RoutingConfig.model_validate({way: 0.2}), way) == 0.2
    for other in {"threshold", "strong_share", "max_quality_drop"} - {way}:
        with pytest.raises(ValidationError, match="contradict each other"):
            RoutingConfig.model_validate({way: 0.2, other: 0.2})


@pytest.mark.parametrize("name", ["Small", "9x", "a b", "", "x" * 33])
def test_pool_names_are_plain(name):
    pools = {n: {"model": f"m-{i}", "engine": ENGINE} for i, n in enumerate(("small", "large", name))}
    with pytest.raises(ValidationError, match="pool name"):
        Config.model_validate({"pools": pools})


def test_further_pools_are_welcome():
    pools = {n: {"model": f"m-{n}", "engine": ENGINE} for n in ("small", "large", "coder", "eu-1")}
    assert set(Config.model_validate({"pools": pools}).pools) == set(pools)


@pytest.mark.parametrize("model", ["jethro", "jethro-route", "router-x-0.5"])
def test_a_pools_model_id_may_not_shadow_ours(model):
    pools = {"small": {"model": model, "engine": ENGINE}, "large": {"model": "b", "engine": ENGINE}}
    with pytest.raises(ValidationError, match="must differ"):
        Config.model_validate({"pools": pools})


@pytest.mark.parametrize("key", [{"name": "a", "env": "1X"}, {"name": "A B", "env": "X"}, {"name": "a", "env": "a-b"}])
def test_a_key_is_a_plain_tenant_and_a_variables_name(key):
    with pytest.raises(ValidationError):
        KeyConfig.model_validate(key)


def test_a_replica_is_not_said_to_bear_more_than_it_lets_in():
    tree = {"model": "m", "engine": ENGINE, "max_ongoing_requests": 4}
    bounds = {"min": 1, "max": 2, "concurrency": 5}
    with pytest.raises(ValidationError, match=r"concurrency 5 .*max_ongoing_requests 4"):
        PoolConfig.model_validate({**tree, "replicas": bounds})
    for fine in ({**bounds, "concurrency": 4}, {**bounds, "policy": "in_flight"}, {**bounds, "max": 1}):
        assert PoolConfig.model_validate({**tree, "replicas": fine})
