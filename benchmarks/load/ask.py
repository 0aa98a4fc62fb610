"""One streamed chat completion, and what became of it."""

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import orjson

from benchmarks.connection import Address, Connection, Reply
from benchmarks.load.prompts import Prompt
from benchmarks.record import Outcome, Record


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint and the parameters that every request carries."""

    url: str
    model: str = "jethro"
    max_tokens: int = 64
    temperature: float = 0.0
    timeout_s: float = 120.0
    api_key: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def request(self, prompt: Prompt) -> bytes:
        """The HTTP request as bytes, made before the clock starts."""
        body = {
            "model": self.model,
            "messages": list(prompt.messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return Address.of(self.url).post("/v1/chat/completions", orjson.dumps(body), headers)


class Asker:
    """Keeps connections that are free and opens more when none is."""

    def __init__(self, target: Target) -> None:
        self._address = Address.of(target.url)
        self._timeout_s = target.timeout_s
        self._free: list[Connection] = []

    async def ask(self, index: int, request: bytes, due_s: float) -> Record:
        """Send now; never raises for what the server does."""
        sent_s = perf_counter()
        try:
            connection = await self._connection()
        except (OSError, TimeoutError) as e:
            return Record(index, due_s, sent_s, perf_counter(), "lost", detail=f"connect: {e!r}")
        try:
            reply = await connection.exchange(request, self._timeout_s)
        except TimeoutError:
            reply = connection.partial()
            reply.end_s = perf_counter()
            return _record(index, due_s, sent_s, reply, "timeout", f"nothing whole within {self._timeout_s} s")
        if connection.usable:
            self._free.append(connection)
        return _record(index, due_s, sent_s, reply, *judge(reply))

    async def _connection(self) -> Connection:
        while self._free:
            if (connection := self._free.pop()).usable:
                return connection
        return await Connection.open(self._address)

    def close(self) -> None:
        """Close what is free."""
        for connection in self._free:
            connection.close()


def judge(reply: Reply) -> tuple[Outcome, str]:
    """How an exchange ended, with the server's words if it failed."""
    if reply.status == 0:
        return "lost", "connection closed before a status"
    if reply.status != 200:
        return "refused", f"{reply.status} {reply.body[:300].decode('utf-8', 'replace')}"
    last = reply.events[-1][1] if reply.events else b""
    if last == b"[DONE]" and reply.complete:
        return "ok", ""
    if last.startswith(b'{"error"'):
        return "error_event", last[:300].decode("utf-8", "replace")
    return "cut", f"ended after {len(reply.events)} events without [DONE]"


def _record(index: int, due_s: float, sent_s: float, reply: Reply, outcome: Outcome, detail: str) -> Record:
    record = Record(index, due_s, sent_s, reply.end_s, outcome, reply.status, detail)
    record.pool = reply.headers.get("x-jethro-pool")
    text = []
    for at_s, data in reply.events:
        if data == b"[DONE]":
            continue
        event = orjson.loads(data)
        piece = "".join((c.get("delta") or {}).get("content") or "" for c in event.get("choices") or ())
        if piece:
            text.append(piece)
            record.token_s.append(at_s)
        if usage := event.get("usage"):
            record.prompt_tokens = usage.get("prompt_tokens") or 0
            record.output_tokens = usage.get("completion_tokens") or 0
    record.text = "".join(text)
    record.output_tokens = record.output_tokens or len(record.token_s)
    return record


async def reachable(url: str, timeout_s: float = 5.0) -> None:
    """Raises ConnectionError with what to do if nothing answers there."""
    try:
        (await Connection.open(Address.of(url), timeout_s)).close()
    except (OSError, TimeoutError) as e:
        raise ConnectionError(f"nothing listens at {url} ({e}): start it with `jethro serve`, or give --url") from e


async def watch_lag(lags_s: list[float], every_s: float = 0.01) -> None:
    """Appends how late this process' event loop wakes, until cancelled; large values mean the client is the limit."""
    while True:
        before = perf_counter()
        await asyncio.sleep(every_s)
        lags_s.append(perf_counter() - before - every_s)
