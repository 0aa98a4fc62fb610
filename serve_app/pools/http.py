"""HttpPool: a pool whose members are OpenAI-compatible addresses, replicas or other servers.

Bytes pass through as received. A member that fails before the first byte is replaced by another; a later error goes to
the caller. Closing the iterator closes the connection, which stops the model.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from time import monotonic
from typing import TypeVar

import orjson

from serve_app import __version__
from serve_app.errors import DeadlineExceeded, JethroError, Overloaded, PoolUnavailable
from serve_app.pools.base import PoolLoad
from serve_app.pools.client_session import Proxy, client_session
from serve_app.pools.directory import Directory, Member
from serve_app.pools.event_stream import EventStream
from serve_app.pools.replica_session import ReplicaSession
from serve_app.pools.upstream import Backoff, Timeouts, Upstream, replica_answers
from serve_app.pools.upstream_errors import LostConnection, NoConnection, SilentReplica, SlowUpstream, read_whole
from serve_app.tracing.model_calls import CallSpan, begin_call, ending
from serve_app.tracing.spans import trace_headers
from serve_app.types import Capabilities, Price, Query
from serve_app.unrecorded import HEADER as UNRECORDED
from serve_app.wire.embeddings import EmbeddingAnswer, read_embeddings
from serve_app.wire.frames import Answer, Call, Frame
from serve_app.wire.honoured import honoured
from serve_app.wire.requests import COUNT_PATH, count_of, query_to_openai

_PROBED_PATH = "/models"
_REMOTE_PROBE_EVERY_S = 1.0
_PATHS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Options of the calls to members. `backoff` applies when every available member has been tried."""

    upstream_model: str
    headers: Mapping[str, str]
    timeouts: Timeouts
    backoff: Backoff = field(default_factory=Backoff)
    identify: bool = True
    """The members are replicas: they accept the answer's id and time, and the minimal client is enough."""
    places: int = 0
    """Requests that a member serves at once; 0: unknown."""
    proxy: Proxy | None = None


@dataclass(eq=False)
class HttpPool:
    """A pool over a Directory of addresses. Must be made inside the event loop that will use it."""

    name: str
    model: str
    directory: Directory
    options: UpstreamOptions
    _: KW_ONLY
    price: Price
    capabilities: Capabilities

    def __post_init__(self) -> None:
        self._session = ReplicaSession() if self.options.identify else client_session(self.options.proxy)
        self.repairs: Counter[str] = Counter()
        """What had to be repaired in answers so far, by kind."""
        self.retries: Counter[str] = Counter()
        """Calls that were sent again, by what was wrong with the one before."""
        self._upstreams: dict[str, Upstream] = {}
        self._faults: dict[str, str] = {}
        """By address: what its last probe found wrong."""

    def load(self) -> PoolLoad:
        """Available members, this Gateway's open requests there, and the others they last reported."""
        members = self.directory.available
        in_flight, waiting = sum(m.in_flight for m in members), sum(m.others for m in members)
        places = len(members) * self.options.places
        answers = bool(self.directory.answering)
        fault = None if answers else self._fault()
        started = self.directory.begun or not self.options.identify
        return PoolLoad(len(members), in_flight, waiting, places, answers=answers, fault=fault, started=started)

    async def watch(self) -> None:
        """Probe the members until cancelled: replicas always, other servers until it is known that they answer."""
        if self.options.identify:
            async with client_session() as session:
                await self.directory.watch(partial(replica_answers, session))
        else:
            await self.directory.watch(
                self._remote_answers, unheard_only=True, every_s=_REMOTE_PROBE_EVERY_S,
                probe_s=self.options.timeouts.connect_s,
            )  # fmt: skip

    async def _remote_answers(self, address: str) -> bool:
        self._faults.setdefault(address, f"does not answer within {self.options.timeouts.connect_s:g} s")
        fault = await self._upstream_at(address).fault(_PROBED_PATH)
        if fault is None:
            self._faults.pop(address, None)
        else:
            self._faults[address] = fault
        return fault is None

    def _fault(self) -> str:
        """Why no member is known to answer."""
        members = self.directory.members
        if self.options.identify:
            return "no replica answers" if members else "no replica runs"
        found = dict.fromkeys(self._faults.get(m.address, "most requests fail" if m.heard else "") for m in members)
        return "; ".join(filter(None, found)) or "not known yet"

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """See `Pool.stream`."""
        body = self._body(query, stream=True)
        path, n = _PATHS[query.endpoint], query.sampling.n
        span = begin_call(query, call, self.name, self.options.upstream_model, stream=True)
        headers = self._headers(query, call, "text/event-stream", span)

        def open_at(upstream: Upstream) -> Awaitable[EventStream]:
            return upstream.open_stream(path, body, headers, choices=n, deadline_s=call.deadline_s)

        with ending(span):
            member, events = await self._first(open_at, call, query.adapter, span)
            seen = member.failures
            try:
                async for frame in events:
                    if span is not None:
                        span.frame(frame)
                    yield frame
            except JethroError as error:
                if error.retryable:  # the caller's mistake is not the member's failure
                    self._note(member, error, seen, began=True)
                raise
            finally:
                member.in_flight -= 1
                await events.aclose()

    async def complete(self, query: Query, call: Call) -> Answer:
        """See `Pool.complete`."""
        body = self._body(query, stream=False)
        path, span = _PATHS[query.endpoint], begin_call(query, call, self.name, self.options.upstream_model)
        headers = self._headers(query, call, "application/json", span)

        async def post_to(upstream: Upstream) -> Answer:
            answer = await upstream.post(path, body, headers, deadline_s=call.deadline_s)
            try:
                return self._read(answer, query)
            except JethroError as error:
                raise upstream.refusal(error) from error.__cause__

        with ending(span):
            member, answer = await self._first(post_to, call, query.adapter, span)
            member.in_flight -= 1
            if span is not None:
                span.answer(answer)
            return answer

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        """See `CountingPool`; only replicas count."""
        if not self.options.identify:
            return None
        body = self._body(query, stream=False)
        headers = self._headers(query, call, "application/json", None)

        def post_to(upstream: Upstream) -> Awaitable[bytes]:
            return upstream.post(COUNT_PATH, body, headers, deadline_s=call.deadline_s)

        member, answer = await self._first(post_to, call, query.adapter, None)
        member.in_flight -= 1
        return count_of(answer)

    def _read(self, body: bytes, query: Query) -> Answer:
        """The answer of a body with status 200. Raises UpstreamError for one of another shape."""
        if query.endpoint != "embeddings":
            return read_whole(body, self.repairs)
        if self.options.identify:
            return EmbeddingAnswer(body)
        inputs, plain = query.extra.get("input", query.messages), query.extra.get("encoding_format") != "base64"
        return read_embeddings(body, len(inputs), plain=plain, repairs=self.repairs)

    @property
    def scraped(self) -> bool:
        """Whether the members are replicas, which export metrics."""
        return self.options.identify

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _first(
        self, send: Callable[[Upstream], Awaitable[T]], call: Call, adapter: str | None, span: CallSpan | None
    ) -> tuple[Member, T]:
        """Try members until one answers with its first byte; that one stays counted in flight."""
        tried: dict[str, JethroError] = {}
        attempt = 0
        while True:
            member = await self._next_member(tried, call, adapter)
            member.in_flight += 1
            seen = member.failures
            if span is not None:
                span.at(member.address, ours=self.options.identify)
            try:
                result = await self._sent(send, member)
            except JethroError as error:
                member.in_flight -= 1
                if span is not None:
                    span.attempt_failed(member.address, error)
                if not error.retryable:
                    raise
                if isinstance(error, SlowUpstream) and call.deadline_s is not None and monotonic() >= call.deadline_s:
                    raise DeadlineExceeded(f"{self.model} was not done before the deadline") from error
                if member.address not in tried:  # a request counts once against a member, whatever its retries
                    self._note(member, error, seen)
                tried[member.address] = error
                await self._pause(attempt, tried, error)
                self.retries[_fault_of(error)] += 1
                attempt += 1
            except BaseException:
                member.in_flight -= 1
                raise
            else:
                self.directory.succeeded(member, seen)
                return member, result

    async def _sent(self, send: Callable[[Upstream], Awaitable[T]], member: Member) -> T:
        """What `send` returns. Raises LostConnection if the member turns out to be silent while another is there."""
        upstream = self._upstream_at(member.address)
        if not self.options.identify:
            return await send(upstream)
        try:
            async with asyncio.timeout(None) as limit:
                member.waiting.add(limit)
                try:
                    return await send(upstream)
                finally:
                    member.waiting.discard(limit)
        except TimeoutError:
            raise upstream.failure("the replica takes connections and does not answer", SilentReplica) from None

    async def _next_member(self, tried: Mapping[str, JethroError], call: Call, adapter: str | None) -> Member:
        """A member not tried yet; once all were, any available one, since it may have restarted."""
        try:
            return await self.directory.pick(tried, wait=call.may_wait, adapter=adapter)
        except PoolUnavailable:
            if not tried:
                raise
            if not call.may_wait or _all_full(tried):
                raise _worst(tried.values()) from None
        try:
            return await self.directory.pick()
        except PoolUnavailable:
            raise _worst(tried.values()) from None

    def _note(self, member: Member, error: JethroError, seen: int, *, began: bool = False) -> None:
        if isinstance(error, PoolUnavailable) and self.options.identify:
            self.directory.draining(member)
        elif not isinstance(error, Overloaded):  # a remote upstream that drains has failed: it may return
            # a replica that breaks a connection has died; a remote server that does may be a proxy with a hiccup
            dead = isinstance(error, LostConnection if self.options.identify else NoConnection)
            self.directory.failed(member, seen, dead=dead, began=began)

    async def _pause(self, attempt: int, tried: Mapping[str, JethroError], error: JethroError) -> None:
        """Wait before the next try, not at all if another member is available. Raises after the last try."""
        pause_s = self.options.backoff.pause_s(attempt, error)
        if pause_s is None:
            raise _worst(tried.values())
        if all(m.address in tried for m in self.directory.available):
            if _all_full(tried):
                raise _worst(tried.values())  # a full member is not tried again: the wait is left to the caller
            await asyncio.sleep(pause_s)

    def _upstream_at(self, address: str) -> Upstream:
        upstream = self._upstreams.get(address)
        if upstream is None:
            known = {m.address for m in self.directory.members}
            self._upstreams = {a: u for a, u in self._upstreams.items() if a in known}
            upstream = self._upstreams[address] = Upstream(
                address,
                session=self._session,
                headers=self.options.headers,
                timeouts=self.options.timeouts,
                trusted=self.options.identify,
                repairs=self.repairs,
            )
        return upstream

    def _body(self, query: Query, *, stream: bool) -> bytes:
        sent = honoured(query, self.capabilities)
        return orjson.dumps(query_to_openai(sent, model=self.options.upstream_model, stream=stream))

    def _headers(self, query: Query, call: Call, accept: str, span: CallSpan | None) -> dict[str, str]:
        headers = {"x-request-id": call.request_id}
        if span is not None:
            headers |= span.headers()
        if not self.options.identify:
            headers |= trace_headers() if span is None else {}
            return headers | {"accept": accept, "accept-encoding": "identity", "user-agent": f"jethro/{__version__}"}
        if query.stays_unrecorded:
            headers[UNRECORDED] = "1"
        return headers | {"x-jethro-id": call.id, "x-jethro-created": str(call.created_s)}


def _all_full(tried: Mapping[str, JethroError]) -> bool:
    return all(isinstance(e, Overloaded) for e in tried.values())


def _fault_of(error: JethroError) -> str:
    """The kind of a failure for which a call is sent again."""
    if isinstance(error, Overloaded):
        return "full"
    if isinstance(error, PoolUnavailable):
        return "draining"
    if isinstance(error, SlowUpstream | SilentReplica):
        return "slow"
    return "lost" if isinstance(error, LostConnection) else "failed"


def _worst(errors: Iterable[JethroError]) -> JethroError:
    """The error to report when all failed: Overloaded only if all were full."""
    listed = list(errors)
    return next((e for e in reversed(listed) if not isinstance(e, Overloaded)), listed[-1])
