"""Calls an ASGI application by hand, so that a test decides when the caller leaves."""

import asyncio
from dataclasses import dataclass, field

import orjson

SECRET = "cluster"
HEADERS = {"authorization": f"Bearer {SECRET}", "x-jethro-id": "7", "x-jethro-created": "99"}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Exchange:
    """One request's answer; `writes` are the bodies as they were sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    writes: list[bytes] = field(default_factory=list)
    ended: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    @property
    def json(self):
        return orjson.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        return [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]

    def leave(self) -> None:
        self.gone.set()


async def call(app, path="/v1/chat/completions", body=CHAT, *, method="POST", headers=HEADERS, exchange=None):
    """Runs the application on one request to its end."""
    exchange = exchange or Exchange()
    data = body if isinstance(body, list) else [body if isinstance(body, bytes) else orjson.dumps(body)]
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in data]
    parts[-1]["more_body"] = False

    async def receive():
        if parts:
            return parts.pop(0)
        await exchange.gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            exchange.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            exchange.writes.append(message["body"])
            exchange.ended = not message.get("more_body", False)
            exchange.started.set()

    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    await app({"type": "http", "path": path, "method": method, "headers": raw}, receive, send)
    return exchange
