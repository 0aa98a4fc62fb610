"""Every strategy over real replica apps on localhost, each side with traces of its own, as if they were processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from serve_app.api.app import build_app
from serve_app.errors import ModelNotFound
from serve_app.gateway.services import Services
from serve_app.pools.directory import Directory, ReplicaReport
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.strategy import Strategy
from serve_app.tracing.export import provider_of
from serve_app.tracing.spans import Tracing
from serve_app.types import Capabilities, Price
from tests.api.fakes import config, services
from tests.cascade.fakes import UNSURE
from tests.placement.worlds import NAMES, STREAM, strategies, streams, tree
from tests.pools.test_http import Replica

CHAT = "/v1/chat/completions"
SAYS = {"small": UNSURE, "large": "joy", "cloud": "cloud says", "remote": "remote says"}
MODELS = (
    *("route", "route-all", "cascade", "cascade-stream", "cascade-route", "ensemble", "ensemble-rounds"),
    *("ensemble-fused", "best-of", "orchestrate", "direct-small", STREAM),
)


class Collected(SpanProcessor):
    """Keeps the spans of one side, and knows how many are open."""

    def __init__(self) -> None:
        self.open = 0
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.open -= 1
        self.spans.append(span)


@dataclass(frozen=True)
class Seen:
    """One span, as a test reads it. `side`: the process that it is of."""

    side: str
    span: ReadableSpan
    children: list["Seen"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def kind(self) -> str:
        return self.span.kind.name.lower()

    @property
    def failed(self) -> bool:
        return self.span.status.status_code is StatusCode.ERROR

    def __getitem__(self, attribute: str) -> Any:
        return (self.span.attributes or {}).get(attribute)

    @property
    def below(self) -> list["Seen"]:
        """All spans under it."""
        return [found for child in self.children for found in (child, *child.below)]

    @property
    def outline(self) -> Any:
        """Its name, and those under it in the order in which they began."""
        return (self.name, [child.outline for child in self.children]) if self.children else self.name

    def named(self, name: str) -> list["Seen"]:
        return [found for found in self.below if found.name == name]


class Catalogue:
    """Strategies by their names, and a stream."""

    def __init__(self, named: Mapping[str, Strategy], made: Any) -> None:
        self._named, self._streams = named, made

    def resolve(self, model: str) -> Strategy:
        if model == STREAM:
            return self._streams.strategy(model)  # type: ignore[no-any-return]
        if model not in self._named:
            raise ModelNotFound(f"no model {model}")
        return self._named[model]

    def models(self) -> list[Any]:
        return []


@dataclass
class World:
    """An app, its replicas, and all spans that ended."""

    http: httpx.AsyncClient
    services: Services
    replicas: dict[str, Replica]
    sides: dict[str, Collected]
    pools: dict[str, HttpPool]

    async def ask(self, model: str, *, stream: bool = False, headers: Any = None, **rest: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hi joy"}], "stream": stream, **rest}
        return await self.http.post(CHAT, json=body, headers=headers)

    async def roots(self) -> list[Seen]:
        """The traces' first spans on our side, once every span has ended."""
        async with asyncio.timeout(10):
            while any(side.open for side in self.sides.values()):
                await asyncio.sleep(0.005)
        seen = [Seen(side, span) for side, found in self.sides.items() for span in found.spans]
        by_id = {one.span.context.span_id: one for one in seen}
        assert len(by_id) == len(seen)
        roots = []
        for one in sorted(seen, key=lambda found: found.span.start_time or 0):
            parent = one.span.parent
            above = by_id.get(parent.span_id) if parent is not None else None
            if above is None:
                roots.append(one)
            else:
                assert above.span.context.trace_id == one.span.context.trace_id
                above.children.append(one)
        return roots

    async def root(self) -> Seen:
        """The one trace that there is."""
        (root,) = await self.roots()
        assert (root.side, root.span.kind) == ("gateway", SpanKind.SERVER)
        return root


def traced(side: str, sample: float, **options: Any) -> tuple[Tracing, Collected]:
    provider, collected = provider_of(side), Collected()
    provider.add_span_processor(collected)
    return Tracing(provider, sample, **options), collected


def pool_of(name: str, addresses: list[str], **options: Any) -> HttpPool:
    directory = Directory(name)
    directory.update([ReplicaReport(address) for address in addresses])
    calls = UpstreamOptions(
        *(f"m-{name}", {"authorization": "Bearer s3cret"}, Timeouts(1, 5, 5), Backoff(retries=2, base_s=0.01)),
        **options,
    )
    capabilities = Capabilities(tools=True, max_context_tokens=4096)
    price = Price(10.0 ** NAMES.index(name), 10.0 ** NAMES.index(name))
    return HttpPool(name, f"m-{name}", directory, calls, price=price, capabilities=capabilities)


@contextlib.asynccontextmanager
async def world(folder: Path, *, sample: float = 1.0, **options: Any) -> AsyncIterator[World]:
    """`options`: of the Gateway's tracing."""
    replicas, sides = {}, {}
    for name in NAMES:
        replica = Replica(model=f"m-{name}", script=lambda query, index, said=SAYS[name]: list(said))
        replica.engine.capabilities = Capabilities(tools=True, max_context_tokens=4096)
        replica.app.tracing, sides[name] = traced(name, 0.0)  # a replica samples as its Gateway does
        replicas[name] = replica
    tracing, sides["gateway"] = traced("gateway", sample, **options)
    pools = {name: pool_of(name, [replica.address]) for name, replica in replicas.items()}
    learner, made = streams(pools, folder)
    tree_ = tree(dict.fromkeys(NAMES, "local"))

    def change(parts: dict[str, Any]) -> None:
        parts |= {"pools": pools, "streams": made, "tracing": tracing}
        parts["catalogue"] = Catalogue(strategies(pools, tree_), made)

    parts = services(tree=config(), change=change)
    await parts.start()
    app = httpx.ASGITransport(build_app(parts), raise_app_exceptions=False)
    for replica in replicas.values():
        while not replica.server.started:
            await asyncio.sleep(0.005)
    try:
        async with httpx.AsyncClient(transport=app, base_url="http://jethro") as http:
            spec = {"name": "mood", "labels": ["joy", "fear"], "instruction": "Which?", "levels": ["logistic"]}
            assert (await http.post("/v1/streams", json=spec)).status_code == 200
            yield World(http, parts, replicas, sides, pools)
    finally:
        await parts.aclose()
        await learner.aclose()
        for replica in replicas.values():
            await replica.kill()
