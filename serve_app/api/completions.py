"""The hot path, on raw ASGI: one request to a strategy and its answer to the caller, in the dialect of the route.

The response starts with the strategy's Decision, so that errors before it have their true status. When the caller
disconnects or the deadline passes, the strategy's iterator is closed at once, and with it every model call.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from time import monotonic, time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve_app.api.body import parse_object, read_body
from serve_app.api.dialects.base import Dialect, Writer
from serve_app.api.http.interrupt import CallerGone, DeadlinePassed, Interrupt, Stopped
from serve_app.api.middleware import CALLER, Caller, Ids
from serve_app.api.query import ParsedRequest, hinted, requested_class, retries
from serve_app.api.reply import (
    INTERNAL,
    Headers,
    decision_headers,
    send_error,
    send_json,
    spent_headers,
    timing_headers,
)
from serve_app.errors import (
    ContentFiltered,
    DeadlineExceeded,
    JethroError,
    PoolUnavailable,
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.gateway.prompts import check_prompts, each_prompt
from serve_app.gateway.services import Services
from serve_app.guards.answers import guarded, refusal_events
from serve_app.observability.request_span import described
from serve_app.routing.sessions import Thread
from serve_app.store.base import RequestRecord
from serve_app.strategy import Context, Event, Spent, Strategy
from serve_app.tracing.spans import in_force, spanned
from serve_app.types import DECISION_ID, REACH, Decision, Endpoint, Privacy, Query
from serve_app.unrecorded import Undecided
from serve_app.wire.frames import Answer, Call, Frame

logger = logging.getLogger("jethro.api")

_EVENT_STREAM: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_INPUT: Final[Mapping[Endpoint, str]] = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
"""The parameter that holds what a model reads."""
_LAST_EVENT_S: Final = 2.0
"""Longest wait for a caller to take the error event of a stream that broke."""


class CompletionHandler:
    """The ASGI app of one hot route, which speaks `dialect`."""

    def __init__(self, services: Services, dialect: Dialect) -> None:
        self._services = services
        self._dialect = dialect
        self._embeds = dialect.endpoint == "embeddings"
        self._ids = Ids()
        self._retry_after_s = services.config.gateway.retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. GatewayMiddleware has put the Caller into the scope."""
        services, started = self._services, monotonic()
        caller: Caller = scope[CALLER]
        record = RequestRecord(caller.request_id, self._dialect.endpoint, time(), tenant=caller.tenant, unrecorded=True)
        response = _Response(record, started, send, services, self._dialect)
        services.recorder.started()
        services.demand.arrived()
        if services.tracing is None:
            with Undecided() as undecided:
                await self._run(scope, receive, response, undecided)
            return
        span = services.tracing.request(f"POST {scope['path']}", scope["headers"])
        with in_force(span), described(span, record, scope["path"]), Undecided() as undecided:
            await self._run(scope, receive, response, undecided)

    async def _run(self, scope: Scope, receive: Receive, response: "_Response", undecided: Undecided) -> None:
        """The request to its end; whatever its end is, it is settled. Its log lines are within `undecided`."""
        services, record, started = self._services, response.record, response.started
        reach, decision_id = REACH.set(None), DECISION_ID.set(None)
        try:
            self._enter(record.tenant)
            try:
                await self._answer(scope, receive, response, undecided)
            finally:
                services.limiter.leave(record.tenant)
        except (CallerGone, ClientDisconnect):
            record.status, record.http_status = "cancelled", 499
        except JethroError as error:
            await response.fail(error, self._retry_after_s)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            await response.fail(JethroError(INTERNAL), 1)
        except BaseException:  # cancelled from outside
            record.status, record.http_status = "cancelled", 499
            raise
        finally:
            REACH.reset(reach)
            DECISION_ID.reset(decision_id)
            record.latency_ms = (monotonic() - started) * 1e3
            services.settle(record)

    def _enter(self, tenant: str | None) -> None:
        """Take a slot within the tenant's share of this Gateway. Raises Overloaded."""
        try:
            self._services.limiter.enter(tenant)
        except JethroError:
            self._services.demand.refused()
            raise

    async def _answer(self, scope: Scope, receive: Receive, response: "_Response", undecided: Undecided) -> None:
        services, record, limits = self._services, response.record, self._services.config.limits
        record.retry = retries(scope["headers"])
        body = await read_body(scope, receive, limits.body_bytes)
        request, response.writer = await self._dialect.read(parse_object(body), record.tenant)
        record.model, record.stream = request.model, request.stream
        record.user, record.safety_identifier = request.query.user, request.query.safety_identifier
        requested = requested_class(scope["headers"])
        catalogue = services.catalogue
        strategy = (catalogue.embedding if self._embeds else catalogue.resolve)(request.model)
        if request.query.endpoint == "completions":
            check_prompts(strategy, request.query, reads_text=services.reads_text)
        response.parsed()
        deadline_s = response.started + limits.request_timeout_s
        call = Call(self._ids.new(), record.request_id, int(record.created_s), deadline_s)
        record.decision_id = call.id
        DECISION_ID.set(call.id)
        context = Context(call, request.stream, services.demand)
        try:
            async with Interrupt(receive, limits.request_timeout_s, services.stops):
                query = hinted(request.query, scope["headers"])
                if services.sessions is not None:
                    query, response.thread = services.sessions.find(query, request.model, scope["headers"])
                query = await self._placed(query, requested, response, call, undecided)
                response.query = query
                async with aclosing(await self._guarded(strategy, query, request.model, response, context)) as events:
                    await response.relay(events, request)
        except DeadlinePassed:
            raise DeadlineExceeded(f"No whole answer within {limits.request_timeout_s:g} s.") from None
        except Stopped:
            raise PoolUnavailable("The endpoint stops: send the request again.", code="stopping") from None
        finally:
            record.steps = record.steps or context.ledger.standing()

    async def _placed(
        self, query: Query, requested: Privacy | None, response: "_Response", call: Call, undecided: Undecided
    ) -> Query:
        """The query with its class and reach, which from here on hold for all that this task does."""
        services, record = self._services, response.record
        if services.placement is not None:
            with spanned("place"):
                placed = await services.placement.place(query, requested, call)
            query = placed.query
            response.found({f"placement.{category}": n for category, n in placed.detected.items()})
        record.unrecorded = query.stays_unrecorded
        undecided.decide(query.stays_unrecorded)
        response.privacy = query.privacy
        REACH.set(query.reach)
        if services.config.store.keep_prompts and not query.stays_unrecorded:
            record.prompt = query.text
        return query

    async def _guarded(
        self, strategy: Strategy, query: Query, model: str, response: "_Response", context: Context
    ) -> AsyncGenerator[Event]:
        """The strategy's events, with request and answer checked. Raises ContentFiltered for a request that is not."""
        guards = self._services.guards
        if guards is None:
            return each_prompt(strategy.run, query, context)
        if query.sampling.logprobs and guards.checks("output"):
            raise UnsupportedParameter(
                "logprobs: they would show what guards hold back of an answer: leave it out.", param="logprobs"
            )
        query, verdict = await guards.check_input(query, context.call)
        response.found(verdict.findings)
        if not verdict.stops:

            def run(query: Query, context: Context) -> AsyncGenerator[Event]:
                return guarded(strategy.run(query, context), guards, query, context, response.found)

            if query.endpoint == "embeddings":
                return strategy.run(query, context)  # vectors say nothing
            return each_prompt(run, query, context)
        self._services.recorder.refused("input")
        if guards.config.refusal == "error" or query.endpoint == "embeddings":
            raise ContentFiltered(guards.config.message, param=_INPUT[query.endpoint])
        return each_prompt(partial(refusal_events, guards.config.message, model), query, context)


class _Pieces:
    """When the pieces of a stream were sent: a clock and a comparison for each, and no more."""

    __slots__ = ("_count", "_first", "_last", "_longest")

    def __init__(self) -> None:
        self._count, self._first, self._last, self._longest = 0, 0.0, 0.0, 0.0

    def sent(self, now: float) -> None:
        """One is sent."""
        if self._count:
            gap = now - self._last
            if gap > self._longest:
                self._longest = gap
        else:
            self._first = now
        self._count += 1
        self._last = now

    def note(self, record: RequestRecord) -> None:
        """The stream is over."""
        record.pieces, record.longest_gap_ms = self._count, self._longest * 1e3
        record.pieces_ms = (self._last - self._first) * 1e3


class _Response:
    """The response to one request, as far as it has been sent. `writer` is there once its body has been read.

    `privacy`: its class, once it is known. `query`: the request once it is placed; `thread`: its conversation.
    """

    writer: Writer
    query: Query
    thread: Thread | None = None

    def __init__(self, record: RequestRecord, started: float, send: Send, services: Services, dialect: Dialect) -> None:
        self.record = record
        self._dialect = dialect
        self._scope = services.scope
        self.started = started
        self.privacy: Privacy = "any"
        self._placement, self._recorder, self._sessions = services.placement, services.recorder, services.sessions
        self._found: dict[str, int] = {}
        self._send = send
        self._headers: Headers = dialect.headers(record.request_id)
        self._begun = False
        self._parsed_at = started

    def parsed(self) -> None:
        """The body is read and checked."""
        self._parsed_at = monotonic()
        self.record.parse_ms = (self._parsed_at - self.started) * 1e3

    def found(self, findings: Mapping[str, int]) -> None:
        """What was found, by `guard.category`: counted, and shown in the answer. Never what it was."""
        if not findings:
            return
        self._recorder.found(findings)
        for name, number in findings.items():
            self._found[name] = self._found.get(name, 0) + number
        if self.record.decision is not None:
            self.record.decision = replace(self.record.decision, guards=dict(self._found))

    async def relay(self, events: AsyncIterator[Event], request: ParsedRequest) -> None:
        """Send the events of a strategy to the caller."""
        record, writer = self.record, self.writer
        answer: Answer | None = None
        pieces = _Pieces()
        async for event in events:
            if isinstance(event, Frame):
                if record.ttft_ms is None:
                    record.ttft_ms = self._elapsed_ms()
                data = writer.passed(event)
                if data:
                    pieces.sent(monotonic())
                    await self._send({"type": "http.response.body", "body": data, "more_body": True})
            elif isinstance(event, Decision):
                decision = self._decided(self._scope.noted(request.model, request.query, event))
                if request.stream:
                    await self._begin_stream(writer.begin(decision))
            elif isinstance(event, Answer):
                answer = event
            elif isinstance(event, Spent):
                record.steps, record.answered = event.steps, event.answered
                pieces.note(record)
        if record.decision is None:
            raise UpstreamError("The strategy ended without a decision.")
        if request.stream:
            await self._send({"type": "http.response.body", "body": await writer.end(record)})
        elif answer is None:
            raise UpstreamError("The strategy ended without an answer.")
        else:
            await self._send_whole(await writer.whole(answer, record))

    async def fail(self, error: JethroError, retry_after_s: float) -> None:
        """An error: with its true status if nothing was sent yet, else as the stream's last event."""
        self.record.status, self.record.error_code = "failed", error.code
        if self._begun:
            with suppress(TimeoutError):  # a caller who does not read misses it; the server then closes the connection
                async with asyncio.timeout(_LAST_EVENT_S):
                    await self._send({"type": "http.response.body", "body": self.writer.broken(error)})
        else:
            self.record.http_status = error.status
            await send_error(self._send, error, self._headers, retry_after_s, body=self._dialect.refusal(error))

    def _decided(self, decision: Decision) -> Decision:
        elapsed_ms = (monotonic() - self._parsed_at) * 1e3
        place = None if self._placement is None else self._placement.place_of(decision.pool)
        decision = replace(decision, privacy=self.privacy, place=place, guards=self._found)
        self.record.decision = decision
        if self.thread is not None and self._sessions is not None:
            self._sessions.keep(self.thread, self.query, decision)
        self.record.decide_ms = decision.decision_ms
        self.record.first_byte_ms = max(0.0, elapsed_ms - decision.decision_ms)
        self._headers += decision_headers(decision)
        return decision

    def _elapsed_ms(self) -> float:
        return (monotonic() - self.started) * 1e3

    async def _begin_stream(self, first: bytes) -> None:
        self._headers += timing_headers(self.record, self._elapsed_ms())
        self._begun = True
        headers = [*_EVENT_STREAM, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if first:
            await self._send({"type": "http.response.body", "body": first, "more_body": True})

    async def _send_whole(self, body: bytes) -> None:
        record = self.record
        record.ttft_ms = self._elapsed_ms()
        self._headers += spent_headers(record)
        self._headers += timing_headers(record, record.ttft_ms)
        self._begun = True
        await send_json(self._send, 200, body, self._headers)
