"""A fake endpoint on a real port: answers what it is told and keeps what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

DECISION = {
    "decision_id": "d1",
    "strategy": "route",
    "pool": "small",
    "model": "jlab-small",
    "reason": "win rate 0.031 < threshold 0.420",
    "score": 0.031,
    "threshold": 0.42,
    "router": "complexity",
    "expected": {"small": {"quality": 0.97}, "large": {"quality": 0.98}},
    "features": {"digits": 0.4, "length": -1.25},
}


def delta(text: str) -> dict[str, Any]:
    """A chunk with a piece of the answer."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def answer(*pieces: str) -> list[Any]:
    """The events of a whole answer."""
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
        "jethro": {**DECISION, "cost_usd": 0.00000125},
    }
    return [*(delta(p) for p in pieces), last, "[DONE]"]


@dataclass
class FakeEndpoint:
    """`events` are sent for every chat; `refuse` (status, message) instead of it; `asked` are (path, key, body)."""

    url: str = ""
    events: list[Any] = field(default_factory=lambda: answer("4", "2"))
    refuse: tuple[int, str] | None = None
    asked: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)


def _handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            endpoint.asked.append((self.path, self.headers.get("authorization"), body))
            if endpoint.refuse:
                status, message = endpoint.refuse
                self._send(status, json.dumps({"error": {"message": message}}) if message[0] != "<" else message)
            elif self.path == "/v1/route":
                self._send(200, json.dumps(DECISION))
            else:
                sent = [e if isinstance(e, str) else json.dumps(e) for e in endpoint.events]
                self._send(200, "".join(f"data: {e}\n\n" for e in sent))

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("x-jethro-pool", "small")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler


@contextmanager
def running(endpoint: FakeEndpoint) -> Iterator[FakeEndpoint]:
    """The endpoint at a free port while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(endpoint))
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
