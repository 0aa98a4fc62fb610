"""The watch over a start: what is said when, by a clock of the test's own; and the endpoint's own word over HTTP."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve_app.config import load
from serve_app.deployments.readiness import ReadyWatch, address, readiness_at
from serve_app.gateway.services import Readiness

UP = {"small": {"ok": True, "why": None}, "large": {"ok": True, "why": None}}
ONE = {**UP, "large": {"ok": False, "why": "cannot be reached"}}
NONE = {**ONE, "small": {"ok": False, "why": "cannot be reached"}}


class Heard:
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, line: str) -> None:
        self.said.append(line)

    def waiting(self, state: Readiness) -> None:
        self.said.append("waiting")

    def ready(self, state: Readiness) -> None:
        self.said.append("degraded" if state.degraded else "ready")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([(0, None), (1, Readiness(True, pools=UP)), (2, Readiness(False, pools=NONE))], ["ready"]),
        ([(0, Readiness(False, pools=NONE)), (1, Readiness(True, pools=UP))], ["ready"]),
        ([(0, Readiness(True, True, ONE)), (1, Readiness(True, pools=UP))], ["ready"]),
        (
            [(0, Readiness(True, True, ONE)), (4, Readiness(True, True, ONE)), (6, Readiness(True, True, ONE))],
            ["degraded"],
        ),
        ([(t, Readiness(False, pools=NONE)) for t in range(9)], ["waiting"]),
        ([(0, None), (6, Readiness(False, pools=NONE)), (7, Readiness(False, pools=NONE))], []),
        (
            [(0, Readiness(False, pools=NONE)), (6, Readiness(False, pools=NONE)), (99, Readiness(True, True, ONE))],
            ["waiting", "degraded"],
        ),
    ],
)
def test_ready_is_said_once_when_a_query_would_be_answered(states, said):
    now, heard = [0.0], Heard()
    left = list(states)

    def look() -> Readiness | None:
        now[0], state = left.pop(0)
        return state

    watch = ReadyWatch(heard, look, lambda: now[0])
    for _ in states:
        if not watch.done:
            watch.step()
    assert heard.said == said


@contextmanager
def saying(status: int, body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health/ready"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_the_endpoints_own_word_counts_and_no_proxys(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for status, state in ((200, Readiness(True, pools=UP)), (503, Readiness(False, pools=NONE))):
        body = {"ok": state.ok, "degraded": state.degraded, "pools": state.pools}
        with saying(status, json.dumps(body).encode()) as url:
            assert readiness_at(url) == state
    for status, text in ((503, b"<html>"), (200, b"{}"), (200, b"[]"), (404, b'{"error": {}}')):
        with saying(status, text) as url:
            assert readiness_at(url) is None
    assert readiness_at("http://127.0.0.1:9") is None


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000"), ("127.0.0.2", "http://127.0.0.2:8000")],
)
def test_the_address_at_which_this_machine_reaches_it(host, url):
    extra = {"server.allow_unauthenticated": "true"}
    assert address(load("lab", env={}, settings={"server.host": host, **extra})) == url
