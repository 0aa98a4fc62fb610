"""Serve's configuration made safe; with the real one in front of small servers, see test_supervisor.py."""

import pytest

from serve_app.front.haproxy import Unexpected, hardened
from serve_app.front.settings import FrontSettings

SERVE = """global
    maxconn 4096
    stats socket /tmp/s.sock mode 666 level admin
defaults
    mode http
    timeout client 1h
frontend http_frontend
    bind 127.0.0.1:8000
    http-request return status 404 content-type text/plain string "none"
listen stats
    bind *:8404
"""


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("", "127.0.0.1:8000"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("::", "[::]:8000 v4v6"),
        ("fd00::1", "[fd00::1]:8000"),
        ("a.example", "a.example:8000"),
    ],
)
def test_the_callers_address_is_the_fronts_own(host: str, bind: str) -> None:
    lines = hardened(SERVE, FrontSettings("t", "haproxy", host=host), "s", "e").splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("bind ")] == [f"bind {bind}"]


@pytest.mark.parametrize("line", ["stats socket", "maxconn", "mode http", "bind 127", "http-request return"])
def test_a_configuration_that_is_not_known_is_refused(line: str) -> None:
    text = "\n".join(found for found in SERVE.splitlines() if not found.strip().startswith(line))
    with pytest.raises(Unexpected, match=r"Ray 2\.60"):
        hardened(text, FrontSettings("t", "haproxy"), "s", "e")
