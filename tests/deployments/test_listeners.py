"""Serve's port between deployments is on the node's address alone."""

import socket

import grpc
import pytest
from ray.serve._private import replica

from serve_app.deployments.listeners import bind_to_node, listener


def _connects(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.settimeout(2)
        return client.connect_ex((host, port)) == 0


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_the_port_answers_at_that_address_alone(monkeypatch: pytest.MonkeyPatch, host: str, other: str) -> None:
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)  # put back at the end
    bind_to_node(host)
    server = grpc.server(None)
    port = replica.add_port_to_grpc_server(server, "[::]:0")  # as Serve calls it
    server.start()
    try:
        assert _connects(host, port)
        assert not _connects(other, port)
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("host", "bound"), [("10.1.2.3", "10.1.2.3:0"), ("fd00::1", "[fd00::1]:0"), ("node-7.example", "[::]:0")]
)
def test_what_is_asked_of_grpc(monkeypatch: pytest.MonkeyPatch, host: str, bound: str) -> None:
    asked: list[str] = []
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, address: asked.append(address))
    bind_to_node(host)
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert asked == [bound]


def test_a_listener_has_a_port_of_its_own() -> None:
    with listener("127.0.0.1") as one, listener("127.0.0.1") as two:
        assert one.getsockname()[0] == "127.0.0.1"
        assert one.getsockname()[1] != two.getsockname()[1]
