"""What is written into the environment before Ray starts."""

import socket

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


def gateway_ports(env: dict[str, str]) -> range:
    ends = [int(env[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")]
    return range(ends[0], ends[1] + 1)


def test_a_gateway_never_takes_a_port_of_another_endpoint() -> None:
    for _ in range(20):
        one: dict[str, str] = {}
        two: dict[str, str] = {}
        prepare_serve_environment(one, loopback=True)
        first = gateway_ports(one)
        with socket.socket() as gateway:
            gateway.bind(("127.0.0.1", first[0]))
            prepare_serve_environment(two, loopback=True)
        second = gateway_ports(two)
        assert len(first) == len(second) == 100 and set(first).isdisjoint(second)
        assert first[0] >= 20_000 and first[-1] < 30_000


def test_gateway_ports_that_the_operator_set_stay() -> None:
    env = {"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "31000"}
    prepare_serve_environment(env, loopback=True)
    assert "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT" not in env
    joined: dict[str, str] = {}
    prepare_serve_environment(joined)
    assert "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT" not in joined


def test_cluster_address_is_rays_own_variable() -> None:
    assert cluster_address({}) is None
    assert cluster_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"


def test_whatever_is_unset_is_set() -> None:
    env: dict[str, str] = {}
    prepare_serve_environment(env)
    assert env == SERVE_ENVIRONMENT
