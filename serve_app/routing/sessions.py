"""Which pool a conversation is with: a tool loop, or all of it, stays there, as `routing.stickiness` says.

A conversation is known by x-session-id, or by a keyed hash of its leading messages, within a tenant and a model's name.
Each Gateway remembers its own, up to a number and for a time. One that remembers nothing has routers score the messages
before the tool loop alone, as they were scored when it began: its choice is then the same, without any shared state.
What only the other Gateway knows, as a fallback or an escalation on the way, is lost with the change of Gateways.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from time import monotonic
from typing import Final

from serve_app.config.strategies import RoutingConfig
from serve_app.errors import RequestError
from serve_app.images import Session
from serve_app.types import Decision, Message, Query

SESSION_HEADER: Final = "x-session-id"
_HEADER: Final = SESSION_HEADER.encode()
_LONGEST: Final = 256
_RESULTS: Final = ("tool", "function")
_NAMED: Final = "direct"
"""The strategy of requests that name their pool's model: they stay there in any case."""


@dataclass(frozen=True, slots=True)
class Thread:
    """The conversation of one request. `key`: under which its pool is remembered; `named`: not by its content."""

    key: bytes
    named: bool


class Sessions:
    """The conversations of one Gateway. `clock` returns seconds."""

    def __init__(self, routing: RoutingConfig, clock: Callable[[], float] = monotonic) -> None:
        self._mode, self._most, self._ttl_s = routing.stickiness, routing.sessions, routing.session_ttl_s
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._pools: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pools)

    def find(self, query: Query, model: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Query, Thread | None]:
        """The query with its session, and where to keep the pool that answers it; None: nowhere.

        Raises RequestError for an x-session-id that is empty or too long.
        """
        if self._mode == "off" or query.endpoint != "chat":
            return query, None
        session_id = _session_id(headers)
        start = loop_start(query.messages) if self._mode == "tools" else _opening(query.messages)
        stays = start < len(query.messages)
        if self._mode == "tools" and not (stays or query.tools or session_id is not None):
            return query, None
        if session_id is not None:
            before = own = self._hash(query.tenant, model, (session_id,))
        else:
            own = self._of(query, model, start)
            before = own if stays else self._of(query, model, _turn_before(query.messages))
        pool = self._pool(before)
        if pool is None and not stays:
            return query, Thread(own, session_id is not None)
        session = Session(pool, stays, start if stays else 0, _shared(query.messages) if pool is not None else 0.0)
        return replace(query, session=session), Thread(own, session_id is not None)

    def keep(self, thread: Thread, query: Query, decision: Decision) -> None:
        """Remember the pool that answers. Of a request of which nothing may be kept, not even a hash of its content."""
        if decision.strategy == _NAMED or decision.cause == "guard" or (query.stays_unrecorded and not thread.named):
            return
        now = self._clock()
        self._pools[thread.key] = decision.pool, now + self._ttl_s
        self._pools.move_to_end(thread.key)
        while len(self._pools) > self._most or next(iter(self._pools.values()))[1] <= now:
            self._pools.popitem(last=False)

    def _pool(self, key: bytes) -> str | None:
        found = self._pools.get(key)
        return found[0] if found is not None and found[1] > self._clock() else None

    def _of(self, query: Query, model: str, count: int) -> bytes:
        return self._hash(query.tenant, model, [text for m in query.messages[:count] for text in _said(m)])

    def _hash(self, tenant: str | None, model: str, texts: Sequence[str]) -> bytes:
        """Keyed, so that a key says nothing of a text to who does not have the secret of this process."""
        digest = blake2b(key=self._secret, digest_size=16)
        for text in (tenant or "", model, *texts):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data))
            digest.update(data)
        return digest.digest()


def loop_start(messages: Sequence[Message]) -> int:
    """How many messages come before the tool loop that runs; all, if none does.

    A loop is the assistant's calls and their results, again and again. A user's words next to results do not end it.
    """
    end = len(messages)
    while (at := _last_answer(messages, end)) is not None:
        calls = messages[at].extra.keys() & {"tool_calls", "function_call"}
        if not calls or not any(m.role in _RESULTS for m in messages[at + 1 : end]):
            break
        end = at
    return end


def _last_answer(messages: Sequence[Message], end: int) -> int | None:
    return next((i for i in range(end - 1, -1, -1) if messages[i].role == "assistant"), None)


def _opening(messages: Sequence[Message]) -> int:
    """How many messages lead up to the first of the user's, that included, if an answer followed it."""
    if not any(m.role == "assistant" for m in messages):
        return len(messages)
    first = next((i for i, m in enumerate(messages) if m.role == "user"), len(messages) - 1)
    return first + 1


def _turn_before(messages: Sequence[Message]) -> int:
    """How many messages there were when the turn before began."""
    at = _last_answer(messages, len(messages))
    return 0 if at is None else loop_start(messages[:at])


def _shared(messages: Sequence[Message]) -> float:
    """The share of the characters that the last answer already had before it."""
    at = _last_answer(messages, len(messages)) or 0
    whole = sum(len(m.content) for m in messages)
    return sum(len(m.content) for m in messages[:at]) / whole if whole else 0.0


def _said(message: Message) -> Iterable[str]:
    """What distinguishes a message: of an image its length and beginning alone, since it may have megabytes."""
    return (message.role, message.content, *(f"{len(i.url)} {i.url[:64]}" for i in message.images))


def _session_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    given = next((value for name, value in headers if name == _HEADER), None)
    if given is None:
        return None
    if not 0 < len(given) <= _LONGEST:
        why = f"{SESSION_HEADER}: give 1 to {_LONGEST} characters."
        raise RequestError(why, param=SESSION_HEADER, code="invalid_value")
    return given.decode("latin-1")
