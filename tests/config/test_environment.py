"""What is written into the environment before Ray starts."""

import socket
from pathlib import Path

from serve_app.config.environment import SERVE_ENVIRONMENT, cluster_address, front_variables, prepare_serve_environment


def test_what_the_operator_set_stays() -> None:
    env = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    prepare_serve_environment(env)
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in env


def test_an_endpoint_of_its_own_has_our_front_even_where_another_haproxy_is_chosen(tmp_path) -> None:
    env = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/sbin/haproxy", "RAY_SERVE_HAPROXY_SOCKET_PATH": "/tmp/admin.sock"}
    prepare_serve_environment(env, home=tmp_path)
    expected = front_variables(tmp_path / "jethro-front", tmp_path)
    assert {name: env[name] for name in expected} == expected


def test_two_endpoints_on_one_machine_share_no_port_no_folder_and_no_token(tmp_path) -> None:
    one: dict[str, str] = {}
    two: dict[str, str] = {}
    prepare_serve_environment(one, home=tmp_path / "one")
    prepare_serve_environment(two, home=tmp_path / "two")
    own = ["RAY_AUTH_TOKEN_PATH", *(n for n in one if n.startswith("RAY_SERVE_HAPROXY") and str(tmp_path) in one[n])]
    assert len(own) == 7
    for name in [*own, "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "JETHRO_FRONT"]:
        assert one[name] != two[name]


def gateway_ports(env: dict[str, str]) -> range:
    ends = [int(env[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")]
    return range(ends[0], ends[1] + 1)


def test_a_gateway_never_takes_a_port_of_another_endpoint() -> None:
    for _ in range(20):
        one: dict[str, str] = {}
        two: dict[str, str] = {}
        prepare_serve_environment(one, home=Path("/nowhere"))
        first = gateway_ports(one)
        with socket.socket() as gateway:
            gateway.bind(("127.0.0.1", first[0]))
            prepare_serve_environment(two, home=Path("/nowhere"))
        second = gateway_ports(two)
        assert len(first) == len(second) == 100 and set(first).isdisjoint(second)
        assert first[0] >= 20_000 and first[-1] < 30_000


def test_gateway_ports_that_the_operator_set_stay() -> None:
    env = {"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "31000"}
    prepare_serve_environment(env, home=Path("/nowhere"))
    assert "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT" not in env
    joined: dict[str, str] = {}
    prepare_serve_environment(joined)
    assert "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT" not in joined


def test_cluster_address_is_rays_own_variable() -> None:
    assert cluster_address({}) is None
    assert cluster_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"


def test_whatever_is_unset_is_set() -> None:
    env: dict[str, str] = {}
    prepare_serve_environment(env, niceness=3)
    assert env == SERVE_ENVIRONMENT | {"RAY_worker_niceness": "3"}


def test_logs_of_workers_are_bounded_and_the_operators_bound_stays() -> None:
    """Ray rotates a worker's stderr, where the request log goes, only if the first of the two is set."""
    env = {"RAY_ROTATION_BACKUP_COUNT": "9"}
    prepare_serve_environment(env)
    assert 0 < int(env["RAY_ROTATION_MAX_BYTES"]) <= 64 * 2**20
    assert env["RAY_ROTATION_BACKUP_COUNT"] == "9"
