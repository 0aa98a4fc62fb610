"""`jethro-stream-NAME`: a query of a stream, answered by the lowest level that may answer it, or by the LLM.

The caller's text is the one user message. What the caller gets is the label; where the LLM's answer parses to no label,
that answer as it is. Nothing on the way waits for the Learner: events leave through the outbox.
"""

import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final, Protocol

from serve_app.errors import JethroError, PoolUnavailable, RequestError, UnsupportedParameter, UpstreamError
from serve_app.pools.attempt import Attempt
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Spent
from serve_app.strategy import Event as Told
from serve_app.streams.base import PREFIX, ActiveStream, Event, ObservedEvent
from serve_app.streams.labels import parsed, question
from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.types import Chunk, Decision, Query, Step, Usage
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Frame

_TELLS_NOTHING: Final = 1e-9
"""Levels whose labels are as likely as each other to this have learned nothing."""


class Sink(Protocol):
    """Where a stream's events go."""

    def put(self, stream: str, uid: str, event: Event) -> bool:
        """Keep one; False if there is no room."""

    def failed(self, stream: str, uid: str) -> None:
        """The LLM was asked and did not answer."""


Act = Callable[[ActiveStream, str, list[float] | None], Coroutine[Any, Any, Episode]]
"""The policy's act, wherever it is computed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all streams of a Gateway share.

    `find` gives the stream as it is now and raises ModelNotFound; `pools` raises PoolUnavailable for one that is none.
    """

    find: Callable[[str, str | None], Coroutine[Any, Any, ActiveStream]]
    pools: Callable[[str], Pool]
    act: Act
    sink: Sink
    text_chars: int
    coin: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the caller is told, by whom."""

    text: str
    model: str
    usage: Usage


class StreamStrategy:
    """One stream by its name; made anew for each request, cheap."""

    name = "stream"

    def __init__(self, stream: str, around: Surroundings) -> None:
        self._stream = stream
        self._around = around

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """Which level would answer, with its probability of each label; no LLM is asked and nothing is learned."""
        started = perf_counter()
        acting, _, episode = await self._acted(query)
        features = {}
        if episode.probabilities:
            level = acting.spec.levels[len(episode.probabilities) - 1]
            features = {f"{level}:{x}": p for x, p in zip(acting.spec.labels, episode.probabilities[-1], strict=True)}
        return self._decision(acting, episode, decision_id, started, features)

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Told]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        started = perf_counter()
        acting, text, episode = await self._acted(query)
        acting.policy.observe(episode)
        self._around.sink.put(self._stream, acting.uid, ObservedEvent(episode))
        decision = self._decision(acting, episode, context.call.id, started, {})
        if episode.level is not None and episode.label is not None:
            reply, spent = _Reply(acting.spec.labels[episode.label], PREFIX + self._stream, Usage()), Spent(())
        else:
            context.demand.wanted(decision.pool)
            reply, spent, decision = await self._asked(acting, text, episode, decision, context)
        yield decision
        if context.stream:
            yield Frame(_events(query, reply, context))
        else:
            yield Answer(_body(query, reply, context))
        yield spent

    async def _acted(self, query: Query) -> tuple[ActiveStream, str, Episode]:
        """The stream as it is now, the text, and what the policy says."""
        acting = await self._around.find(self._stream, query.tenant)
        text = _text(query, self._around.text_chars)
        coins = [self._around.coin() for _ in range(1 + len(acting.spec.levels))]
        return acting, text, await self._around.act(acting, text, coins)

    async def _asked(
        self, acting: ActiveStream, text: str, episode: Episode, decision: Decision, context: Context
    ) -> tuple[_Reply, Spent, Decision]:
        """The LLM's word. Where it fails the best small level answers; where there is none, its error is raised."""
        spec, steps = acting.spec, list[Step]()
        try:
            pool = self._around.pools(spec.llm_pool)
            guided = pool.capabilities.guided
            answer = await Attempt((pool,), question(spec, text, guided=guided), context.call, steps).complete()
            said = _content(answer)
        except JethroError as error:
            self._around.sink.failed(self._stream, acting.uid)
            fallen = await self._fallen(acting, text, episode)
            if fallen is None:
                raise
            decision = _instead(decision, spec.levels[fallen[0]], self._stream, error)
            return _Reply(spec.labels[fallen[1]], decision.model, Usage()), Spent(tuple(steps)), decision
        label = parsed(said, spec.labels)
        self._around.sink.put(self._stream, acting.uid, LabeledEvent(text, label, episode, decision.id))
        if label is None:
            decision = replace(decision, reason=f"{decision.reason}; the answer names no label, or more than one")
        told = said if label is None else spec.labels[label]
        return _Reply(told, pool.model, answer.usage), Spent(tuple(steps)), decision

    async def _fallen(self, acting: ActiveStream, text: str, episode: Episode) -> tuple[int, int] | None:
        """The highest small level that has a label, as (level, label); None in a warm-up of untaught ones."""
        if not episode.probabilities:  # an audit, or the warm-up: nothing was computed
            untaught = episode.why == "warm-up"
            episode = await self._around.act(acting, text, None)
            if untaught and max(episode.probabilities[-1]) - min(episode.probabilities[-1]) < _TELLS_NOTHING:
                return None
        last = episode.probabilities[-1]
        return len(episode.probabilities) - 1, max(range(len(last)), key=last.__getitem__)

    def _llm(self, pool: str) -> str:
        """A pool's model; its name where there is none: asking it tells why."""
        try:
            return self._around.pools(pool).model
        except PoolUnavailable:
            return pool

    def _decision(
        self, acting: ActiveStream, episode: Episode, decision_id: str, started: float, features: dict[str, float]
    ) -> Decision:
        spec = acting.spec
        if episode.level is None:
            name, model = spec.llm_pool, self._llm(spec.llm_pool)
        else:
            name, model = spec.levels[episode.level], PREFIX + self._stream
        score = episode.deferral[-1] if episode.deferral else None
        deferral = f", deferral {score:.3f}" if score is not None else ""
        return Decision(
            id=decision_id,
            strategy=self.name,
            pool=name,
            model=model,
            reason=f"stream {self._stream}: {episode.why}{deferral}" + (f"; {acting.note}" if acting.note else ""),
            score=score,
            policy_version=f"{self._stream}@{episode.version}",
            features=features,
            decision_ms=(perf_counter() - started) * 1e3,
        )


def _text(query: Query, most: int) -> str:
    """The one text to be classified. Raises RequestError or UnsupportedParameter for a query that asks for more."""
    if len(query.messages) != 1 or query.messages[0].role != "user":
        raise RequestError(
            "messages: a stream classifies one text by its own instruction: send one user message.",
            param="messages",
            code="invalid_value",
        )
    asked = query.sampling
    for param, more in (
        ("n", asked.n != 1),
        ("stop", bool(asked.stop)),
        ("logprobs", asked.logprobs),
        ("tools", bool(query.tools)),
        ("response_format", query.response_format is not None),
    ):
        if more:
            raise UnsupportedParameter(f"{param}: a stream answers with one label: leave it out.", param=param)
    text = query.messages[0].content
    if not text.strip() or len(text) > most:
        raise RequestError(
            f"messages: the text has {len(text)} characters: send 1 to {most}, not only blanks.",
            param="messages",
            code="invalid_value",
        )
    return text


def _content(answer: Answer) -> str:
    """What the LLM says. Raises UpstreamError if it is no chat answer."""
    try:
        content = answer.parsed["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise UpstreamError(f"the LLM of the stream sent no chat answer ({type(e).__name__})") from e
    return content if isinstance(content, str) else ""


def _instead(decision: Decision, level: str, stream: str, error: JethroError) -> Decision:
    reason = f"{decision.reason}; fallback to {level}: {decision.model} failed: {error.code}"
    return replace(decision, pool=level, model=PREFIX + stream, reason=reason)


def _chunks(reply: _Reply) -> list[Chunk]:
    return [Chunk(text=reply.text), Chunk(finish_reason="stop", usage=reply.usage)]


def _body(query: Query, reply: _Reply, context: Context) -> bytes:
    call = context.call
    return encode_answer(query, _chunks(reply), model=reply.model, answer_id=call.id, created=call.created_s)


def _events(query: Query, reply: _Reply, context: Context) -> bytes:
    call = context.call
    encoder = StreamEncoder(query, model=reply.model, answer_id=call.id, created=call.created_s)
    return encoder.encode_all(_chunks(reply)) + encoder.usage(reply.usage)
