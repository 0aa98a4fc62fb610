"""One request to a strategy and its answer to the caller: the hot path, on raw ASGI.

The response starts when the strategy's Decision is there, so errors before it have their true status. A caller who
goes away, or a deadline, closes the strategy's iterator at once and with it every model call.

Cuts a request off when its caller goes away or its deadline passes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from time import monotonic, time
from types import TracebackType
from typing import Any, Final, Literal, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve_app.api.body import parse_object, read_body
from serve_app.api.caller import CALLER, Caller, Ids
from serve_app.api.query import Asked
from serve_app.api.reply import (
    INTERNAL,
    Headers,
    decision_headers,
    error_event,
    jethro_object,
    send_error,
    send_json,
    spent_headers,
    spliced,
    timing_headers,
    with_usage,
)
from serve_app.api.stream_finalizer import StreamFinalizer
from serve_app.config.tree import LimitsConfig
from serve_app.errors import DeadlineExceeded, JethroError, UpstreamError
from serve_app.gateway.services import Services
from serve_app.store.base import RequestRecord
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Decision, Endpoint
from serve_app.wire.frames import Answer, Call, Frame

logger = logging.getLogger("jethro.api")

_WATCH_AFTER_S: Final = 0.005
"""A request that is over sooner needs no watch; a task for each would be a tenth of its cost."""


class CallerGone(Exception):
    """The caller closed the connection; nobody is left to answer."""


class DeadlinePassed(Exception):
    """The deadline passed while the request ran."""


class Interrupt:
    """Async context: its body is cancelled by a disconnect or at a deadline, and ends as CallerGone or DeadlinePassed.

    The request's body must have been read before, since what `receive` gives next is taken as the disconnect. A
    cancellation from elsewhere (the server stops, Ray Serve saw the disconnect first) passes through untouched.
    """

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._why: Literal["gone", "deadline"] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._deadline_s = loop.time() + self._timeout_s
        # One timer at a time: most requests are over before the watch begins, and never need that of the deadline.
        if self._timeout_s > _WATCH_AFTER_S:
            self._timer = loop.call_later(_WATCH_AFTER_S, self._start_watch, loop)
        else:
            self._timer = loop.call_at(self._deadline_s, self._cut, "deadline")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._why is None:
            return
        outer = self._task.uncancel()
        if kind is asyncio.CancelledError and outer == 0:
            raise (CallerGone if self._why == "gone" else DeadlinePassed) from None

    def _start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(self._deadline_s, self._cut, "deadline")
        self._watch = loop.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._cut("gone")
                return

    def _cut(self, why: Literal["gone", "deadline"]) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()


Read = Callable[[dict[str, Any], LimitsConfig, str | None], Asked]
_EVENT_STREAM: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_LAST_WORD_S: Final = 2.0
"""Longest wait for a caller to take the error event of a stream that broke."""


class Exchange:
    """The ASGI app of one hot route. `read` turns a body into what is asked."""

    def __init__(self, services: Services, endpoint: Endpoint, read: Read) -> None:
        self._services = services
        self._endpoint = endpoint
        self._read = read
        self._ids = Ids()
        self._retry_after_s = services.config.gateway.retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The Edge has put the Caller into the scope."""
        services, started = self._services, monotonic()
        caller: Caller = scope[CALLER]
        record = RequestRecord(caller.request_id, self._endpoint, time(), tenant=caller.tenant)
        answering = _Answering(services, record, started, send)
        services.recorder.started()
        services.demand.arrived()
        try:
            await self._placed(scope, receive, answering)
        except (CallerGone, ClientDisconnect):
            record.status, record.http_status = "cancelled", 499
        except JethroError as error:
            await answering.fail(error, self._retry_after_s)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            await answering.fail(JethroError(INTERNAL), 1)
        except BaseException:  # cancelled from outside
            record.status, record.http_status = "cancelled", 499
            raise
        finally:
            record.latency_ms = (monotonic() - started) * 1e3
            services.settle(record)

    async def _placed(self, scope: Scope, receive: Receive, answering: "_Answering") -> None:
        """Answer within the tenant's share of this Gateway. Raises Overloaded."""
        services, tenant = self._services, answering.record.tenant
        try:
            services.places.enter(tenant)
        except JethroError:
            services.demand.refused()
            raise
        try:
            await self._answer(scope, receive, answering)
        finally:
            services.places.leave(tenant)

    async def _answer(self, scope: Scope, receive: Receive, answering: "_Answering") -> None:
        services, record = self._services, answering.record
        limits = services.config.limits
        body = await read_body(scope, receive, limits.body_bytes)
        asked = self._read(parse_object(body), limits, record.tenant)
        record.model, record.stream = asked.model, asked.stream
        if services.config.store.keep_prompts:
            record.prompt = asked.query.text
        strategy = services.catalogue.resolve(asked.model)
        answering.parsed()
        call = Call(
            self._ids.new(), record.request_id, int(record.created_s), answering.started + limits.request_timeout_s
        )
        context = Context(call, asked.stream, services.demand)
        try:
            events = strategy.run(asked.query, context)
            async with Interrupt(receive, limits.request_timeout_s), aclosing(events):
                await answering.relay(events, asked)
        except DeadlinePassed:
            raise DeadlineExceeded(f"No whole answer within {limits.request_timeout_s:g} s.") from None
        finally:
            record.steps = record.steps or context.ledger.standing()


class _Answering:
    """What has been sent of one answer, and how to go on."""

    def __init__(self, services: Services, record: RequestRecord, started: float, send: Send) -> None:
        self.record = record
        self.started = started
        self._send = send
        self._headers: Headers = [(b"x-request-id", record.request_id.encode())]
        self._begun = False
        self._parsed_at = started

    def parsed(self) -> None:
        """The body is read and checked."""
        self._parsed_at = monotonic()
        self.record.parse_ms = (self._parsed_at - self.started) * 1e3

    async def relay(self, events: AsyncIterator[Event], asked: Asked) -> None:
        """Everything a strategy tells, to the caller."""
        finalizer = StreamFinalizer(asked.include_usage)
        decision: Decision | None = None
        answer: Answer | None = None
        async for event in events:
            if isinstance(event, Frame):
                await self._piece(finalizer.passed(event))
            elif isinstance(event, Decision):
                decision = event
                self._decided(event)
                if asked.stream:
                    await self._begin_stream()
            elif isinstance(event, Answer):
                answer = event
            elif isinstance(event, Spent):
                self.record.steps = event.steps
        if decision is None:
            raise UpstreamError("The strategy ended without a decision.")
        if asked.stream:
            record = self.record
            await self._end_stream(finalizer.end(jethro_object(decision, record), record.usage_to_show))
        elif answer is None:
            raise UpstreamError("The strategy ended without an answer.")
        else:
            body = with_usage(answer.body, self.record.usage_to_show)
            await self._whole(spliced(body, jethro_object(decision, self.record)))

    async def fail(self, error: JethroError, retry_after_s: float) -> None:
        """An error: with its true status if nothing was sent yet, else as the stream's last event."""
        self.record.status, self.record.error_code = "failed", error.code
        if self._begun:
            with suppress(TimeoutError):  # who does not read does not get it; the server then closes the connection
                async with asyncio.timeout(_LAST_WORD_S):
                    await self._send({"type": "http.response.body", "body": error_event(error)})
        else:
            self.record.http_status = error.status
            await send_error(self._send, error, self._headers, retry_after_s)

    def _decided(self, decision: Decision) -> None:
        elapsed_ms = (monotonic() - self._parsed_at) * 1e3
        self.record.decision = decision
        self.record.decide_ms = decision.decision_ms
        self.record.first_byte_ms = max(0.0, elapsed_ms - decision.decision_ms)
        self._headers += decision_headers(decision)

    def _elapsed_ms(self) -> float:
        return (monotonic() - self.started) * 1e3

    async def _begin_stream(self) -> None:
        self._headers += timing_headers(self.record, self._elapsed_ms())
        self._begun = True
        headers = [*_EVENT_STREAM, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _piece(self, data: bytes) -> None:
        if self.record.ttft_ms is None:
            self.record.ttft_ms = self._elapsed_ms()
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end_stream(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data})

    async def _whole(self, body: bytes) -> None:
        record = self.record
        record.ttft_ms = self._elapsed_ms()
        self._headers += spent_headers(record)
        self._headers += timing_headers(record, record.ttft_ms)
        self._begun = True
        await send_json(self._send, 200, body, self._headers)
