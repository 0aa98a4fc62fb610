"""The request log: one JSON line per request, written by its own thread so that no request waits for it.

Never logged: prompts, answers, keys.
"""

import threading
from collections import deque
from typing import Any, Final, Protocol, TextIO

import orjson

from serve_app.observability.process_log import StderrLines
from serve_app.store.base import RequestRecord
from serve_app.types import DECISION_FIELDS

_FLUSH_S = 0.2
_QUEUE = 100_000
"""Lines that may wait for a slow stderr; beyond that the oldest are lost and counted."""


class AccessLog(Protocol):
    """Takes the records of requests; never blocks."""

    def write(self, record: RequestRecord) -> None:
        """Log one request."""

    def close(self) -> None:
        """Write what is queued and stop. Idempotent."""


class NoLog:
    """`log.access: false`."""

    def write(self, record: RequestRecord) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class JsonLog:
    """JSON lines to a text stream (default: stderr); `replica` names the process in every line."""

    def __init__(
        self, out: TextIO | None = None, *, replica: str = "", queue: int = _QUEUE, flush_s: float = _FLUSH_S
    ) -> None:
        # Not sys.stderr: Ray Serve redirects it to a logger that costs more than the line itself.
        self._out = out if out is not None else StderrLines()
        self._replica = replica
        self._flush_s = flush_s
        self._lines: deque[RequestRecord] = deque(maxlen=queue)
        self._lost = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, record: RequestRecord) -> None:
        """Queue one line."""
        if len(self._lines) == self._lines.maxlen:
            self._lost += 1
        self._lines.append(record)

    def close(self) -> None:
        """Write what is queued and stop. Idempotent."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._flush_s)
            self._flush()
        self._flush()

    def _flush(self) -> None:
        batch = []
        while self._lines:
            record = self._lines.popleft()
            try:
                batch.append(orjson.dumps(line(record, self._replica), default=dict).decode())
            except (TypeError, ValueError):  # a value that JSON has not costs this line, not the thread
                self._lost += 1
        if self._lost:
            batch.append(orjson.dumps({"event": "log_lines_lost", "lines": self._lost}).decode())
            self._lost = 0
        if batch:
            try:
                self._out.write("\n".join(batch) + "\n")
                self._out.flush()
            except (OSError, ValueError):  # stderr is closed: there is nowhere left to report it
                self._closing = True


_LOGGED: Final = [(f.shown.logged, f.attribute, f.shown.decimals) for f in DECISION_FIELDS if f.shown.logged]


def line(record: RequestRecord, replica: str) -> dict[str, Any]:
    """The fields of one line."""
    fields: dict[str, Any] = {
        "event": "request",
        "time": round(record.created_s, 3),
        "replica": replica,
        "request_id": record.request_id,
        "decision_id": record.decision_id,
        "trace_id": record.trace_id,
        "endpoint": record.endpoint,
        "model": record.model,
        "stream": record.stream,
        "tenant": record.tenant,
        "status": record.status,
        "code": record.http_status,
        "error_code": record.error_code,
        "retry": record.retry,
        "parse_ms": _round(record.parse_ms),
        "first_byte_ms": _round(record.first_byte_ms),
        "ttft_ms": _round(record.ttft_ms),
        "latency_ms": _round(record.latency_ms),
    }
    if record.decision is not None:
        for key, attribute, decimals in _LOGGED:
            value = getattr(record.decision, attribute)
            fields[key] = value if decimals is None else round(value, decimals)
        usage = record.usage
        fields |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        fields["cost_usd"] = record.cost_usd
    return fields


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)
