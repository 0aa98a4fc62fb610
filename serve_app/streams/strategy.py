"""`jethro-stream-NAME`: a query of a stream, answered by the lowest level that may answer it, or by the LLM.

The caller's text is the one user message. The answer is the label; where the LLM's answer parses to no label, that
answer unchanged. Nothing here waits for the Learner: events leave through the event queue.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final

from serve_app.errors import JethroError, PoolUnavailable, RequestError, UnsupportedParameter, UpstreamError
from serve_app.pools.attempt import BARRED, Attempt, refusal
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Spent
from serve_app.strategy import Event as StrategyEvent
from serve_app.streams.base import PREFIX, ActiveStream, ObservedEvent
from serve_app.streams.event_queue import EventQueue
from serve_app.streams.labels import parsed, question
from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.tracing.spans import spanned
from serve_app.types import Cause, Chunk, Decision, Query, Step, Usage
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Frame

_UNIFORM: Final = 1e-9
"""Levels whose label probabilities differ by less than this have learned nothing."""
_CAUSES: Final[Mapping[str, Cause]] = {
    **{"confident": "confident", "deferred": "deferred", "explored": "explored"},
    **{"audit": "audit", "warm-up": "warm_up"},
}
"""By `Episode.why`."""


@dataclass(frozen=True, eq=False)
class StreamStrategy:
    """One stream by its name; created anew for each request, cheap.

    `find` returns the current stream of a tenant and raises ModelNotFound; `pool` raises PoolUnavailable. `act`
    computes the policy's act, in a thread or inline; its last argument: whether the LLM can be called. `text_chars`:
    longest text.
    """

    name = "stream"

    stream: str
    find: Callable[[str, str | None], Coroutine[Any, Any, ActiveStream]]
    pool: Callable[[str], Pool]
    act: Callable[[ActiveStream, str, bool], Coroutine[Any, Any, Episode]]
    events: EventQueue
    text_chars: int

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The level that would answer, with its probability of each label; no LLM is called, nothing is learned."""
        started = perf_counter()
        stream, _, episode = await self._acted(query)
        features = {}
        if episode.probabilities:
            level = stream.spec.levels[len(episode.probabilities) - 1]
            features = {f"{level}:{x}": p for x, p in zip(stream.spec.labels, episode.probabilities[-1], strict=True)}
        return self._decision(stream, episode, decision_id, started, features)

    async def run(self, query: Query, context: Context) -> AsyncGenerator[StrategyEvent]:
        """Decision, then the frame or the answer, then what was spent; see the contract."""
        started = perf_counter()
        with spanned("decide", {"jethro.strategy": self.name}):
            stream, _, episode = await self._acted(query)
        if not query.stays_unrecorded:
            stream.policy.observe(episode)
            self.events.put(self.stream, stream.uid, ObservedEvent(episode))
        decision = self._decision(stream, episode, context.call.id, started, {})
        if episode.level is not None and episode.label is not None:
            answer, usage, spent = stream.spec.labels[episode.label], Usage(), Spent(())
        else:
            context.demand.requested(decision.pool)
            answer, usage, spent, decision = await self._call_llm(stream, query, episode, decision, context)
        yield decision
        model, call = decision.model, context.call
        chunks = [Chunk(text=answer), Chunk(finish_reason="stop", usage=usage)]
        if context.stream:
            encoder = StreamEncoder(query, model=model, answer_id=call.id, created=call.created_s)
            yield Frame(encoder.encode_all(chunks) + encoder.usage(usage))
        else:
            yield Answer(encode_answer(query, chunks, model=model, answer_id=call.id, created=call.created_s))
        yield spent

    async def _acted(self, query: Query) -> tuple[ActiveStream, str, Episode]:
        """The current stream, the text, and what the policy does with it."""
        stream = await self.find(self.stream, query.tenant)
        text = _text(query, self.text_chars)
        if not query.may_reach(stream.spec.llm_pool):
            return stream, text, await self._without_llm(stream, text)
        return stream, text, await self.act(stream, text, True)

    async def _without_llm(self, stream: ActiveStream, text: str) -> Episode:
        """What the small levels say of a query that the LLM may not see. Raises PlacementForbidden if they are new."""
        episode = await self.act(stream, text, False)
        last = episode.probabilities[-1]
        if max(last) - min(last) < _UNIFORM:
            raise refusal(BARRED, self._llm_model(stream.spec.llm_pool))
        if episode.level is None:
            level, label = len(episode.probabilities) - 1, max(range(len(last)), key=last.__getitem__)
            episode = replace(episode, level=level, label=label)
        return replace(episode, why=f"{episode.why}, and the LLM may not see the text")

    async def _call_llm(
        self, stream: ActiveStream, query: Query, episode: Episode, decision: Decision, context: Context
    ) -> tuple[str, Usage, Spent, Decision]:
        """The LLM's answer. If it fails, the best small level answers; if there is none, the error is raised."""
        spec, steps, text = stream.spec, list[Step](), query.text
        try:
            pool = self.pool(spec.llm_pool)
            guided = pool.capabilities.guided
            sent = replace(question(spec, text, guided=guided), privacy=query.privacy, reach=query.reach)
            answer = await Attempt((pool,), sent, context.call, steps).complete()
            content = _content(answer)
        except JethroError as error:
            if not query.stays_unrecorded:
                self.events.failed(self.stream, stream.uid)
            if (fallback := await self._fallback(stream, text, episode)) is None:
                raise
            level = spec.levels[fallback[0]]
            reason = f"{decision.reason}; fallback to {level}: {decision.model} failed: {error.code}"
            decision = replace(decision, pool=level, model=PREFIX + self.stream, reason=reason, cause="fallback")
            return spec.labels[fallback[1]], Usage(), Spent(tuple(steps)), decision
        label = parsed(content, spec.labels)
        whose = (context.call.created_s, query.tenant, query.users)
        if not query.stays_unrecorded:  # a label is learned with its text, which the journal keeps
            self.events.put(self.stream, stream.uid, LabeledEvent(text, label, episode, decision.id, *whose))
        if label is None:
            decision = replace(decision, reason=f"{decision.reason}; the answer names no label, or more than one")
        return content if label is None else spec.labels[label], answer.usage, Spent(tuple(steps)), decision

    async def _fallback(self, stream: ActiveStream, text: str, episode: Episode) -> tuple[int, int] | None:
        """The highest small level that has a label, as (level, label); None in the warm-up of untrained levels."""
        if not episode.probabilities:  # an audit, or the warm-up: nothing was computed
            warm_up = episode.why == "warm-up"
            episode = await self.act(stream, text, False)
            if warm_up and max(episode.probabilities[-1]) - min(episode.probabilities[-1]) < _UNIFORM:
                return None
        last = episode.probabilities[-1]
        return len(episode.probabilities) - 1, max(range(len(last)), key=last.__getitem__)

    def _llm_model(self, pool: str) -> str:
        """A pool's model; the pool's name if it is missing, which the call then reports."""
        try:
            return self.pool(pool).model
        except PoolUnavailable:
            return pool

    def _decision(
        self, stream: ActiveStream, episode: Episode, decision_id: str, started: float, features: dict[str, float]
    ) -> Decision:
        spec = stream.spec
        if episode.level is None:
            pool, model = spec.llm_pool, self._llm_model(spec.llm_pool)
        else:
            pool, model = spec.levels[episode.level], PREFIX + self.stream
        score = episode.deferral[-1] if episode.deferral else None
        deferral = f", deferral {score:.3f}" if score is not None else ""
        return Decision(
            id=decision_id,
            strategy=self.name,
            pool=pool,
            model=model,
            reason=f"stream {self.stream}: {episode.why}{deferral}" + (f"; {stream.note}" if stream.note else ""),
            score=score,
            policy_version=f"{self.stream}@{episode.version}",
            features=features,
            decision_ms=(perf_counter() - started) * 1e3,
            cause=_CAUSES.get(episode.why.partition(",")[0], "other"),
        )


def _text(query: Query, most: int) -> str:
    """The one text to be classified. Raises RequestError or UnsupportedParameter for a query that requests more."""
    if len(query.messages) != 1 or query.messages[0].role != "user":
        raise RequestError(
            "messages: a stream classifies one text by its own instruction: send one user message.",
            param="messages",
            code="invalid_value",
        )
    sampling = query.sampling
    for param, given in (
        ("n", sampling.n != 1),
        ("stop", bool(sampling.stop)),
        ("logprobs", sampling.logprobs),
        ("tools", bool(query.tools)),
        ("response_format", query.response_format is not None),
    ):
        if given:
            raise UnsupportedParameter(f"{param}: a stream answers with one label: leave it out.", param=param)
    if query.images:
        param = query.images[0].param
        raise UnsupportedParameter(f"{param}: a stream classifies text: leave images out.", param=param)
    text = query.messages[0].content
    if not text.strip() or len(text) > most:
        raise RequestError(
            f"messages: the text has {len(text)} characters: send 1 to {most}, not only blanks.",
            param="messages",
            code="invalid_value",
        )
    return text


def _content(answer: Answer) -> str:
    """The LLM's text. Raises UpstreamError for anything but a chat answer."""
    try:
        content = answer.parsed["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise UpstreamError(f"the LLM of the stream sent no chat answer ({type(e).__name__})") from e
    return content if isinstance(content, str) else ""
