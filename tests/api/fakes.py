"""Fakes of what lies under the API: a pool with scripted answers, a store in a dict, a catalogue of both."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from serve_app.api.reply import decision_json
from serve_app.config.load import load
from serve_app.config.tree import Config
from serve_app.erasure import Selection
from serve_app.errors import Conflict, ModelNotFound, NotFound
from serve_app.gateway.scope import ScopeNotes
from serve_app.gateway.services import Services
from serve_app.observability.access_log import NoLog
from serve_app.observability.metrics import Recorder
from serve_app.observability.scraped import RouterFigures
from serve_app.pools.base import PoolLoad
from serve_app.routing.artefact import Registered
from serve_app.routing.embedding import Embedders
from serve_app.routing.serving.served import ServedRouter
from serve_app.routing.strategy import DirectStrategy, RouteStrategy
from serve_app.routing.thresholds import RouterThreshold
from serve_app.store.base import Erased, Feedback, KeptResponse, RequestRecord
from serve_app.store.filtering import Cursor, DecisionFilter
from serve_app.store.schema import row
from serve_app.streams.base import PREFIX
from serve_app.streams.service import Streams
from serve_app.types import Capabilities, Price, Query
from serve_app.wire.embeddings import EmbeddingAnswer, encode_embeddings
from serve_app.wire.frames import Answer, Call, Frame
from serve_app.wire.parameters import NEEDED

ABLE = Capabilities(guided=True, tools=True, parameters=NEEDED)
EMBEDS = "fake-embed"
"""The model of /v1/embeddings."""
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def config(**changes: Any) -> Config:
    """The lab profile without its embedding pool, with branches replaced: `config(limits={"n": 2})`."""
    tree = load("lab", env={}).model_dump()
    del tree["pools"]["embed"]
    for branch, values in changes.items():
        tree[branch] = {**tree[branch], **values}
    return Config.model_validate(tree)


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in events)


@dataclass
class FakePool:
    """Says `words`, one a frame, for every choice. `gate` is acquired before each frame; `error` is raised after
    `fail_after` frames (0: before the first byte)."""

    name: str = "small"
    model: str = "lab-small"
    words: tuple[str, ...] = ("a", "b", "c")
    gate: asyncio.Semaphore | None = None
    error: Exception | None = None
    fail_after: int = 0
    replicas: int = 1
    finish: bool = True
    price: Price = field(default_factory=lambda: Price(1.0, 2.0))
    capabilities: Capabilities = ABLE
    queries: list[Query] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    cut: int = 0
    closed: bool = False

    def load(self) -> PoolLoad:
        return PoolLoad(self.replicas, self.running)

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame]:
        self._note(query, call)
        self.running += 1
        try:
            for i, frame in enumerate(self._frames(query, call)):
                if self.gate is not None:
                    await self.gate.acquire()
                if self.error is not None and i >= self.fail_after:
                    raise self.error
                yield Frame(frame)
        except (asyncio.CancelledError, GeneratorExit):
            self.cut += 1
            raise
        finally:
            self.running -= 1

    async def complete(self, query: Query, call: Call) -> Answer:
        self._note(query, call)
        self.running += 1
        try:
            if self.gate is not None:
                await self.gate.acquire()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        text = "".join(self.words)
        if query.endpoint == "embeddings":
            return self._embedded(query)
        if query.endpoint == "chat":
            choices = [
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                for i in range(query.sampling.n)
            ]
        else:
            choices = [{"index": i, "text": text, "finish_reason": "stop"} for i in range(query.sampling.n)]
        return Answer(orjson.dumps({**self._head(query, call, stream=False), "choices": choices, "usage": USAGE}))

    async def aclose(self) -> None:
        self.closed = True

    def _embedded(self, query: Query) -> Answer:
        """A unit vector of two numbers for each input; one longer than 100 characters counts as cut."""
        inputs = query.extra.get("input", [message.content for message in query.messages])
        turns = np.array([len(each) for each in inputs], np.float32)
        vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        plain = query.extra.get("encoding_format") != "base64"
        cut = sum(len(each) > 100 for each in inputs)
        return EmbeddingAnswer(encode_embeddings(vectors, self.model, len(inputs), cut, plain=plain))

    def _note(self, query: Query, call: Call) -> None:
        self.queries.append(query)
        self.calls.append(call)

    def _head(self, query: Query, call: Call, *, stream: bool) -> dict[str, Any]:
        chat = query.endpoint == "chat"
        kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
        head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{call.id}", "object": kind, "created": call.created_s}
        return {**head, "model": self.model}

    def _frames(self, query: Query, call: Call) -> list[bytes]:
        head, choices = self._head(query, call, stream=True), range(query.sampling.n)

        def chunk(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
            piece = {"delta": {"role": "assistant", "content": text}} if query.endpoint == "chat" else {"text": text}
            return {**head, "choices": [{"index": index, **piece, "finish_reason": finish}]}

        frames = [sse(*(chunk(i, word) for i in choices)) for word in self.words]
        if self.finish:
            usage = {**head, "choices": [], "usage": USAGE}
            frames.append(sse(*(chunk(i, "", "stop") for i in choices), usage))
        return frames


class LengthRouter:
    """Scores by length: 100 characters and more are surely hard."""

    name = "length"

    def score(self, queries: Any) -> list[float]:
        return [min(1.0, len(q.text) / 100) for q in queries]

    def explain(self, query: Query) -> Mapping[str, float]:
        return {"length": len(query.text) / 100}


@dataclass(frozen=True)
class Entry:
    id: str
    description: str = "a fake"
    pool: str | None = None
    embeds: bool = False


class FakeCatalogue:
    """`jethro` routes between small and large by length; a pool's model id goes to it."""

    def __init__(self, pools: Mapping[str, FakePool], embed: Any = None) -> None:
        self._embedders = Embedders({"embed": embed or FakePool("embed", EMBEDS)})
        router = ServedRouter(Registered(LengthRouter(), 0.5, "length", name="length"))  # type: ignore[arg-type]
        self._named: dict[str, Any] = {"jethro": RouteStrategy("route", router, 0.5, (pools["small"], pools["large"]))}
        self._named |= {pool.model: DirectStrategy(pool) for pool in pools.values()}
        self.streams: Streams | None = None

    def resolve(self, model: str) -> Any:
        if self.streams is not None and model.startswith(PREFIX):
            return self.streams.strategy(model)
        if model not in self._named:
            raise ModelNotFound(f"The model {model!r} does not exist.", param="model")
        return self._named[model]

    def embedding(self, model: str) -> Any:
        return self._embedders.resolve(model, chats=model in self._named)

    def models(self) -> list[Entry]:
        streams = self.streams.names() if self.streams is not None else ()
        pools = {name: strategy.pool.name for name, strategy in self._named.items() if hasattr(strategy, "pool")}
        return [Entry(name, pool=pools.get(name)) for name in (*self._named, *(PREFIX + name for name in streams))]


class FakeRouters:
    """One router that never changes; keeps what it is told of judgements."""

    def __init__(self) -> None:
        self.started = self.closed = False
        self.judgements: list[tuple[Mapping[str, Any], float]] = []

    def start(self) -> None:
        self.started = True

    async def aclose(self) -> None:
        self.closed = True

    def figures(self) -> list[RouterFigures]:
        drift = {"scores": {"drift": False, "statistic": 0.01, "limit": 0.1, "queries": 200}}
        return [RouterFigures("length", "length", "length", 0.5, "inline", True, 0, 0, None, drift)]

    def router(self, name: str) -> ServedRouter:
        if name != "length":
            raise NotFound(f"No router {name[:64]!r}.", param="name")
        return ServedRouter(Registered(LengthRouter(), 0.5, "length", name="length"))  # type: ignore[arg-type]

    def kept_threshold(self, name: str) -> RouterThreshold:
        self.router(name)
        raise Conflict("This router never changes.")

    async def look(self) -> bool:
        return False

    def observe_feedback(self, record: Mapping[str, Any], score: float) -> None:
        self.judgements.append((record, score))


class DictResponses:
    """Keeps responses in this process, without bounds."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptResponse] = {}

    async def keep(self, response: KeptResponse) -> None:
        self.kept[response.id] = response

    async def find(self, response_id: str, tenant: str | None) -> KeptResponse:
        found = self.kept.get(response_id)
        if found is None or tenant not in (None, found.origin.tenant):
            raise NotFound(f"Response with id '{response_id}' not found.")
        return found

    async def chain(self, response_id: str, tenant: str | None, most_bytes: int) -> list[KeptResponse]:
        found = await self.find(response_id, tenant)
        before = [] if found.previous_id is None else await self.chain(found.previous_id, tenant, most_bytes)
        return [*before, found]

    async def delete(self, response_id: str, tenant: str | None) -> None:
        await self.find(response_id, tenant)
        del self.kept[response_id]


class DictStore:
    """Keeps everything in this process."""

    def __init__(self) -> None:
        self.responses = DictResponses()
        self.records: dict[str, RequestRecord] = {}
        self.judgements: list[Feedback] = []
        self.queued = self.dropped = self.failed = self.restarts = 0
        self.away = False

    async def start(self) -> None:
        pass

    def record(self, record: RequestRecord) -> None:
        assert record.decision is not None
        self.records[record.decision.id] = record

    async def feedback(self, feedback: Feedback) -> None:
        await self.decision(feedback.decision_id)
        self.judgements.append(feedback)

    async def decision(self, decision_id: str, tenant: str | None = None) -> Mapping[str, Any]:
        record = self.records.get(decision_id)
        if record is None or tenant not in (None, record.tenant):
            raise NotFound(f"No decision {decision_id!r}.", param="decision_id")
        assert record.decision is not None
        return {**row(record), **decision_json(record.decision)}

    async def newest(self, which: DecisionFilter, before: Cursor | None, most: int) -> list[Mapping[str, Any]]:
        """Without the filters, which are those of the real store."""
        places = sorted(((record.created_s, id_) for id_, record in self.records.items()), reverse=True)
        chosen = [place for place in places if before is None or place < before][:most]
        return [{**await self.decision(id_), "created_s": created_s, "feedback": []} for created_s, id_ in chosen]

    async def erase(self, selection: Selection) -> Erased:
        gone = [id_ for id_, record in self.records.items() if selection in record.origin.selections()]
        for id_ in gone:
            del self.records[id_]
        return Erased(len(gone), 0)

    async def export(self, selection: Selection) -> AsyncGenerator[list[Mapping[str, Any]]]:
        chosen = [id_ for id_, record in self.records.items() if selection in record.origin.selections()]
        if chosen:
            yield [await self.decision(id_) for id_ in chosen]

    async def aclose(self) -> None:
        pass


def services(
    *,
    small: FakePool | None = None,
    large: FakePool | None = None,
    embed: Any = None,
    keys: Mapping[str, str] | None = None,
    metrics_key: str | None = None,
    admin_key: str | None = None,
    tree: Config | None = None,
    scope: ScopeNotes | None = None,
    change: Callable[[dict[str, Any]], None] = lambda parts: None,
) -> Services:
    """Services over fakes; `change` may replace any of the parts."""
    pools = {"small": small or FakePool(), "large": large or FakePool("large", "lab-large")}
    parts: dict[str, Any] = {
        "config": tree or config(),
        "catalogue": FakeCatalogue(pools, embed),
        "pools": pools,
        "store": DictStore(),
        "recorder": Recorder(),
        "access_log": NoLog(),
        "routers": FakeRouters(),
        "keys": keys or {},
        "metrics_key": metrics_key,
        "admin_key": admin_key,
    } | ({} if scope is None else {"scope": scope})
    change(parts)
    return Services(**parts)
