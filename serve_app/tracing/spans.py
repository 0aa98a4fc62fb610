"""Spans of one request: begun under the one that the current task works for, and nothing but a branch without one.

The span in force is a context variable of our own and not OpenTelemetry's: strategies are async generators, between
whose steps a token of OpenTelemetry's context would be reset in a context other than its own. A request that is not
sampled has a span as well, which records nothing: its trace context is passed on, so that no other process samples it.

Nothing that a caller or a model wrote is put on a span here; an error is known by its code.
"""

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

from serve_app.errors import JethroError
from serve_app.unrecorded import is_unrecorded

if TYPE_CHECKING:  # a process that does not trace loads nothing of it
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

    from serve_app.config.base import LogConfig

Kind = Literal["internal", "server", "client"]
Value = str | bool | int | float | list[str]
Attributes = Mapping[str, Value | None]
RawHeaders = Iterable[tuple[bytes, bytes]]

_CURRENT: Final[ContextVar["TraceSpan | None"]] = ContextVar("jethro_span", default=None)
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CONTEXT: Final = (b"traceparent", b"tracestate")
_LONGEST: Final = 1024
"""Bytes of a caller's trace context; a longer one is not followed."""
_SERVER_ERROR: Final = 500
_CLOSE_S: Final = 3.0
"""Longest wait for what is queued at the end: a collector that is away must not hold up a stop."""
_NOTHING: Final[AbstractContextManager[None]] = nullcontext()


class Tracing:
    """Begins the traces of a process.

    `content`: spans of model calls show messages and answers. `follow`: go by the trace context that a request brings.
    """

    def __init__(self, provider: "TracerProvider", *, content: bool = False, follow: bool = True) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._follow = provider, follow
        self._propagator = TraceContextTextMapPropagator()
        self.tracer: Tracer = provider.get_tracer("jethro")
        self.content = content

    @classmethod
    def from_config(cls, log: "LogConfig", instance: str, *, follow: bool = True) -> "Tracing | None":
        """The traces of a process, which is named `instance` in them; None where they are off.

        Raises ConfigError where OpenTelemetry's variables name an exporter that is not there.
        """
        if not log.traces.enabled:
            return None
        from serve_app.tracing.export import open_provider

        provider = open_provider(log.traces.sample, instance)
        return None if provider is None else cls(provider, content=log.content, follow=follow)

    def request(self, name: str, headers: RawHeaders, attributes: Attributes) -> "TraceSpan":
        """The server span of a request, under the caller's if it sent a trace context. The caller ends it."""
        return _begun(self, name, "server", self._context_of(headers), attributes)

    def close(self) -> None:
        """Export what is queued, for a few seconds at most, and stop. Idempotent."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _context_of(self, headers: RawHeaders) -> "Context":
        """The caller's context; an empty one where there is none, or none that is valid."""
        from opentelemetry.context import Context

        found: dict[str, list[str]] = {}
        for name, value in headers if self._follow else ():
            if name in _CONTEXT and len(value) <= _LONGEST:
                found.setdefault(name.decode(), []).append(value.decode("latin-1"))
        if len(found.get("traceparent", ())) != 1:
            return Context()
        return self._propagator.extract({name: ",".join(values) for name, values in found.items()}, Context())


class TraceSpan:
    """One span; without `recording` it has a trace context alone. Every method may be called after its end."""

    __slots__ = ("_span", "_tracing", "recording")

    def __init__(self, tracing: Tracing, span: "OtelSpan") -> None:
        self._tracing, self._span = tracing, span
        self.recording = span.is_recording()

    @property
    def may_quote(self) -> bool:
        """Whether content may be put on it: switched on, and the request is none of which nothing may be kept."""
        return self._tracing.content and not is_unrecorded()

    @property
    def trace_id(self) -> str:
        """As 32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def headers(self) -> dict[str, str]:
        """Its W3C trace context, for the request to another process. Baggage is not passed on: it may be content."""
        context = self._span.get_span_context()
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"
        state = context.trace_state.to_header()
        return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}

    def child(self, name: str, kind: Kind = "internal", attributes: Attributes | None = None) -> "TraceSpan":
        """A span under it. The caller ends it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        return _begun(self._tracing, name, kind, set_span_in_context(self._span, Context()), attributes or {})

    def set(self, attributes: Attributes) -> None:
        """Add attributes; those without a value are left out."""
        self._span.set_attributes(_present(attributes))

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Something that happened now."""
        self._span.add_event(name, _present(attributes or {}))

    def failed(self, code: str) -> None:
        """What it stands for failed, by this code."""
        from opentelemetry.trace import Status, StatusCode

        self.set({"error.type": code})
        self._span.set_status(Status(StatusCode.ERROR))

    def ended_by(self, error: BaseException) -> None:
        """Note why it ended: a cancellation is no failure. End it with `end`."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.set({"jethro.cancelled": True})
        else:
            self.failed(error_type(error))

    def answered(self, status: int, code: str | None = None) -> None:
        """A request was answered with this HTTP status. What is wrong with the request itself is no failure of ours."""
        self.set({"http.response.status_code": status, "error.type": code})
        if status >= _SERVER_ERROR:
            self.failed(code or str(status))

    def end(self) -> None:
        """It is over, and exported."""
        self._span.end()


def _begun(tracing: Tracing, name: str, kind: Kind, context: "Context", attributes: Attributes) -> TraceSpan:
    from opentelemetry.trace import SpanKind

    kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
    return TraceSpan(tracing, tracing.tracer.start_span(name, context, kinds[kind], _present(attributes)))


def _present(attributes: Attributes) -> dict[str, Value]:
    return {n: v for n, v in attributes.items() if v is not None and v == v}  # not a number: not known


def error_type(error: BaseException) -> str:
    """A word for an error that quotes nothing: its code, or the name of its type."""
    code = error.code if isinstance(error, JethroError) else None
    return type(error).__name__ if code is None else checked_code(code)


def checked_code(code: str) -> str:
    """An error's code, if it is one: an upstream may have put a sentence there."""
    return code if _CODE.fullmatch(code) else "error"


def current_span() -> TraceSpan | None:
    """The span that the current task works for, if it records."""
    span = _CURRENT.get()
    return span if span is not None and span.recording else None


def trace_headers() -> dict[str, str]:
    """The trace context in force, sampled or not; empty where nothing is traced."""
    span = _CURRENT.get()
    return {} if span is None else span.headers()


@contextmanager
def in_force(span: TraceSpan | None) -> Iterator[None]:
    """The body, and the tasks that it starts, work for this span. Not around a `yield` of an async generator."""
    token = _CURRENT.set(span)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def serving(span: TraceSpan, status: int) -> Iterator[None]:
    """The body answers the request of a server span, which ends with it; errors pass through.

    `status`: the HTTP status with which errors that are not ours are answered.
    """
    token = _CURRENT.set(span)
    try:
        yield
    except JethroError as error:
        span.answered(error.status, error_type(error))
        raise
    except Exception as error:
        span.answered(status, error_type(error))
        raise
    except BaseException as error:
        span.ended_by(error)
        raise
    finally:
        _CURRENT.reset(token)
        span.end()


def spanned(name: str, attributes: Attributes | None = None) -> AbstractContextManager[TraceSpan | None]:
    """The body as a span of its own under the current one; None where nothing is recorded. Not around a `yield`."""
    parent = _CURRENT.get()
    return _NOTHING if parent is None or not parent.recording else _spanned(parent, name, attributes)


@contextmanager
def _spanned(parent: TraceSpan, name: str, attributes: Attributes | None) -> Iterator[TraceSpan]:
    span = parent.child(name, attributes=attributes)
    token = _CURRENT.set(span)
    try:
        yield span
    except BaseException as error:
        span.ended_by(error)
        raise
    finally:
        _CURRENT.reset(token)
        span.end()
