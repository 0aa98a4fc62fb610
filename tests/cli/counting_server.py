"""A fake OpenAI-compatible endpoint that keeps every call it answered whole; for tests of runs that are killed."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass
class CountingServer:
    """Answers each choice with `<model>:<prompt>:<index>` after `delay_s`; refuses prompts that hold `refuse`."""

    delay_s: float = 0.0
    refuse: str = "\0"
    url: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    """Model, prompt and number of choices of every call that arrived."""
    keys: set[str | None] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    n = body.get("n", 1)
    prompt = body["messages"][-1]["content"]
    choices = [{"index": i, "message": {"content": f"{body['model']}:{prompt}:{i}"}} for i in range(n)]
    return {"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 2 * n}}


def _handler(server: CountingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = body["messages"][-1]["content"]
            with server.lock:
                server.asked.append((body["model"], prompt, body.get("n", 1)))
                server.keys.add(self.headers.get("authorization"))
            time.sleep(server.delay_s)
            if server.refuse in prompt:
                self._send(400, {"error": {"message": "not this one", "type": "invalid_request_error"}})
            else:
                self._send(200, _answer(body))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client was killed

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed reset their connections."""


@contextmanager
def counting(server: CountingServer) -> Iterator[CountingServer]:
    """The server at a free port while the block runs."""
    http = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
