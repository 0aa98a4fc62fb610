"""Spans of one request: begun under the one that the current task works for, and nothing but a branch without one.

The span in force is a context variable of our own and not OpenTelemetry's: strategies are async generators, between
whose steps a token of OpenTelemetry's context would be reset in a context other than its own. Whether a request is
sampled is decided here too, at a hundredth of a request's time; other servers are informed of one that is not, so that
they do not sample it.

Nothing that a caller or a model wrote is put on a span here; an error is known by its code.
"""

import asyncio
import random
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
    from opentelemetry.trace import SpanContext, Tracer

    from serve_app.config.base import LogConfig

Kind = Literal["internal", "server", "client"]
Value = str | bool | int | float | list[str]
Attributes = Mapping[str, Value | None]
RawHeaders = Iterable[tuple[bytes, bytes]]

_CURRENT: Final[ContextVar["TraceSpan | NotSampled | None"]] = ContextVar("jethro_span", default=None)
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

    `sample`: share of the requests that is traced, of those without a trace context of their own. `content`: spans of
    model calls show messages and answers. `follow`: go by the trace context that a request brings.
    """

    def __init__(
        self, provider: "TracerProvider", sample: float, *, content: bool = False, follow: bool = True
    ) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._sample, self._follow = provider, sample, follow
        self._propagator = TraceContextTextMapPropagator()
        self.tracer: Tracer = provider.get_tracer("jethro")
        self.content = content

    @classmethod
    def from_config(cls, log: "LogConfig", instance: str, *, replica: bool = False) -> "Tracing | None":
        """The traces of a process, which is named `instance` in them; None where they are off.

        A `replica` of a pool begins none of its own: it goes by what its Gateways have decided. Raises ConfigError
        where OpenTelemetry's variables name an exporter that is not there.
        """
        if not log.traces.enabled:
            return None
        from serve_app.tracing.export import open_provider

        if (provider := open_provider(instance)) is None:
            return None
        sample, follow = (0.0, True) if replica else (log.traces.sample, log.traces.follow_callers)
        return cls(provider, sample, content=log.content, follow=follow)

    def request(self, name: str, headers: RawHeaders) -> "TraceSpan | NotSampled":
        """The server span of a request, under the caller's if it sent a trace context. The caller ends it."""
        if self._follow:
            for header, _ in headers:
                if header == b"traceparent":
                    return self._followed(name, headers)
        return self._root(name)

    def close(self) -> None:
        """Export what is queued, for a few seconds at most, and stop. Idempotent."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _root(self, name: str) -> "TraceSpan | NotSampled":
        if random.random() >= self._sample:
            return NotSampled()
        from opentelemetry.context import Context

        return _begun(self, name, "server", Context(), {})

    def _followed(self, name: str, headers: RawHeaders) -> "TraceSpan | NotSampled":
        """As the caller says; as if it had said nothing where its context is not valid."""
        from opentelemetry.context import Context
        from opentelemetry.trace import get_current_span

        found: dict[str, list[str]] = {}
        for header, value in headers:
            if header in _CONTEXT and len(value) <= _LONGEST:
                found.setdefault(header.decode(), []).append(value.decode("latin-1"))
        if len(found.get("traceparent", ())) != 1:
            return self._root(name)
        carrier = {header: ",".join(values) for header, values in found.items()}
        context = self._propagator.extract(carrier, Context())
        caller = get_current_span(context).get_span_context()
        if not caller.is_valid:
            return self._root(name)
        if caller.trace_flags.sampled:
            return _begun(self, name, "server", context, {})
        return NotSampled(_headers_of(caller))


class NotSampled:
    """Stands for a request that is not traced. `headers`: its caller's trace context."""

    __slots__ = ("_headers",)

    def __init__(self, headers: dict[str, str] | None = None) -> None:
        self._headers = headers

    def headers(self) -> dict[str, str]:
        """Says to another server that it is not to trace it either."""
        if self._headers is None:
            self._headers = {"traceparent": f"00-{_drawn(128):032x}-{_drawn(64):016x}-00"}
        return self._headers


def _drawn(bits: int) -> int:
    """A random id, which may not be zero."""
    return random.getrandbits(bits) or 1


class TraceSpan:
    """One span that is recorded. Every method may be called after its end."""

    __slots__ = ("_span", "_tracing")

    def __init__(self, tracing: Tracing, span: "OtelSpan") -> None:
        self._tracing, self._span = tracing, span

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
        return _headers_of(self._span.get_span_context())

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


def _headers_of(context: "SpanContext") -> dict[str, str]:
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"
    state = context.trace_state.to_header()
    return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}


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
    return span if isinstance(span, TraceSpan) else None


def trace_headers() -> dict[str, str]:
    """The trace context in force, sampled or not; empty where nothing is traced."""
    span = _CURRENT.get()
    return {} if span is None else span.headers()


@contextmanager
def in_force(span: TraceSpan | NotSampled) -> Iterator[None]:
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
    return _spanned(parent, name, attributes) if isinstance(parent, TraceSpan) else _NOTHING


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
