"""HttpPool: a pool whose members are OpenAI-compatible addresses, ours or anybody's.

Bytes pass through as received. A member that fails before the first byte is replaced by another; after it, the error
is the caller's. A dropped iterator drops the connection, which is the member's sign to stop the model.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

import orjson

from serve_app.errors import DeadlineExceeded, JethroError, Overloaded, PoolUnavailable
from serve_app.pools.base import PoolLoad
from serve_app.pools.directory import Directory, Member
from serve_app.pools.event_stream import EventStream
from serve_app.pools.replica_session import ReplicaSession
from serve_app.pools.retry import Backoff
from serve_app.pools.upstream import BrokenUpstream, SlowUpstream, Timeouts, Upstream, client_session
from serve_app.pools.upstream_errors import error_of_whole
from serve_app.types import Capabilities, Price, Query
from serve_app.wire.frames import Answer, Call, Frame
from serve_app.wire.requests import query_to_openai

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_MOST_BACKOFF_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wire:
    """How members are spoken to. `backoff` is for tries when nobody else is left to ask."""

    upstream_model: str
    headers: Mapping[str, str]
    timeouts: Timeouts
    backoff: Backoff = field(default_factory=Backoff)
    identify: bool = True
    """The members are replicas of ours: they understand the answer's id and time, and a lean client will do."""
    places: int = 0
    """Requests that a member serves at once; 0: nobody knows."""


class HttpPool:
    """A pool over a Directory of addresses. Must be made inside the event loop that will use it."""

    def __init__(
        self, name: str, model: str, directory: Directory, wire: Wire, *, price: Price, capabilities: Capabilities
    ) -> None:
        self.name = name
        self.model = model
        self.price = price
        self.capabilities = capabilities
        self.directory = directory
        self._wire = wire
        self._session = ReplicaSession() if wire.identify else client_session()
        self._upstreams: dict[str, Upstream] = {}

    def load(self) -> PoolLoad:
        """Members that may be asked, what this Gateway has open at them, and what else they last reported."""
        members = self.directory.available
        return PoolLoad(
            len(members),
            sum(m.in_flight for m in members),
            sum(m.others for m in members),
            len(members) * self._wire.places,
        )

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """See `Pool.stream`."""
        body = orjson.dumps(query_to_openai(query, model=self._wire.upstream_model, stream=True))
        path, headers = _PATHS[query.endpoint], self._headers(call)

        async def open_at(upstream: Upstream) -> EventStream:
            return await upstream.open_stream(path, body, headers)

        member, events = await self._first(open_at, call)
        seen = member.failures
        try:
            async for frame in events:
                yield frame
        except JethroError as error:
            if error.retryable:  # the caller's own mistake says nothing of the member
                self._note(member, error, seen)
            raise
        finally:
            member.in_flight -= 1
            await events.aclose()

    async def complete(self, query: Query, call: Call) -> Answer:
        """See `Pool.complete`."""
        body = orjson.dumps(query_to_openai(query, model=self._wire.upstream_model, stream=False))
        path, headers = _PATHS[query.endpoint], self._headers(call)

        async def post_to(upstream: Upstream) -> Answer:
            answer = Answer(await upstream.post(path, body, headers))
            error = error_of_whole(answer)
            if error is not None:
                raise upstream.refusal(error)
            return answer

        member, answer = await self._first(post_to, call)
        member.in_flight -= 1
        return answer

    @property
    def scraped(self) -> bool:
        """Whether the members are replicas of ours, which tell their metrics."""
        return self._wire.identify

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _first(self, ask: Callable[[Upstream], Awaitable[T]], call: Call) -> tuple[Member, T]:
        """Ask members in turn until one gives its first byte; that one stays counted in flight."""
        tried: dict[str, JethroError] = {}
        attempt = 0
        while True:
            member = await self._next_member(tried, call)
            member.in_flight += 1
            seen = member.failures
            try:
                result = await ask(self._upstream(member))
            except JethroError as error:
                member.in_flight -= 1
                if not error.retryable:
                    raise
                if isinstance(error, SlowUpstream) and call.deadline_s is not None and monotonic() >= call.deadline_s:
                    raise DeadlineExceeded(f"{self.model} was not done before the deadline") from error
                if isinstance(error, BrokenUpstream) or member.address not in tried:
                    self._note(member, error, seen)  # else the request may be at fault: the others still come through
                tried[member.address] = error
                await self._pause(attempt, tried, error)
                attempt += 1
            except BaseException:
                member.in_flight -= 1
                raise
            else:
                self.directory.succeeded(member)
                return member, result

    async def _next_member(self, tried: Mapping[str, JethroError], call: Call) -> Member:
        """Somebody not tried yet; when all were, whoever can be had, since a restart may have mended it."""
        try:
            return await self.directory.pick(tried, wait=call.may_wait)
        except PoolUnavailable:
            if not tried:
                raise
            if not call.may_wait or _all_full(tried):
                raise _worst(tried.values()) from None
        try:
            return await self.directory.pick()
        except PoolUnavailable:
            raise _worst(tried.values()) from None

    def _note(self, member: Member, error: JethroError, seen: int) -> None:
        if isinstance(error, PoolUnavailable) and self._wire.identify:
            self.directory.draining(member)
        elif not isinstance(error, Overloaded):  # a remote upstream that drains is one that fails: it comes back
            self.directory.failed(member, seen)

    async def _pause(self, attempt: int, tried: Mapping[str, JethroError], error: JethroError) -> None:
        """Wait before the next try, not at all if somebody else can be asked. Raises when tries are over."""
        pause_s = self._wire.backoff.pause_s(attempt, error)
        if pause_s is None:
            raise _worst(tried.values())
        if all(m.address in tried for m in self.directory.available):
            if _all_full(tried):
                raise _worst(tried.values())  # nobody is asked again: the caller can wait better than we
            await asyncio.sleep(pause_s)

    def _upstream(self, member: Member) -> Upstream:
        upstream = self._upstreams.get(member.address)
        if upstream is None:
            known = {m.address for m in self.directory.members}
            self._upstreams = {a: u for a, u in self._upstreams.items() if a in known}
            upstream = self._upstreams[member.address] = Upstream(
                member.address, session=self._session, headers=self._wire.headers, timeouts=self._wire.timeouts
            )
        return upstream

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {"x-request-id": call.request_id}
        if self._wire.identify:
            headers["x-jethro-id"] = call.id
            headers["x-jethro-created"] = str(call.created_s)
        return headers


def _all_full(tried: Mapping[str, JethroError]) -> bool:
    return all(isinstance(e, Overloaded) for e in tried.values())


def _worst(errors: Iterable[JethroError]) -> JethroError:
    """The error to show when all failed: a full queue only if all were full, since that is the caller's to wait for."""
    listed = list(errors)
    return next((e for e in reversed(listed) if not isinstance(e, Overloaded)), listed[-1])
