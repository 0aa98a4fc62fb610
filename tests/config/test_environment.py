"""What is written into the environment before Ray starts."""

from serve_app.config.environment import SERVE_ENVIRONMENT, cluster_address, prepare_serve_environment


def test_what_the_operator_set_stays() -> None:
    env = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    prepare_serve_environment(env)
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert "RAY_SERVE_HAPROXY_METRICS_PORT" not in env


def test_two_endpoints_on_one_machine_take_different_proxy_ports() -> None:
    one: dict[str, str] = {}
    two: dict[str, str] = {}
    prepare_serve_environment(one, loopback=True)
    prepare_serve_environment(two, loopback=True)
    ports = [env[f"RAY_SERVE_HAPROXY_{what}_PORT"] for env in (one, two) for what in ("METRICS", "STATS")]
    assert len(set(ports)) == 4


def test_cluster_address_is_rays_own_variable() -> None:
    assert cluster_address({}) is None
    assert cluster_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"


def test_whatever_is_unset_is_set() -> None:
    env: dict[str, str] = {}
    prepare_serve_environment(env)
    assert env == SERVE_ENVIRONMENT
