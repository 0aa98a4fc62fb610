"""What the HTTP API is built from: everything it talks to, passed in as one value."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.autoscaling.signals import Demand
from serve_app.config.load import secret
from serve_app.config.tree import Config, KeyConfig
from serve_app.decision.capacity import Relief
from serve_app.errors import ConfigError
from serve_app.gateway.catalogue import Catalogue as RoutingCatalogue
from serve_app.gateway.fairness import FairPlaces, unbounded
from serve_app.gateway.reload import Reloader
from serve_app.gateway.streams import WithStreams
from serve_app.observability.access_log import AccessLog, JsonLog, NoLog
from serve_app.observability.metrics import Recorder
from serve_app.pools.base import Pool
from serve_app.routing.serving.loading import Loader
from serve_app.routing.serving.served import Remote
from serve_app.store.base import RequestRecord, Store
from serve_app.store.sqlite import SqliteStore
from serve_app.strategy import Strategy
from serve_app.streams.base import LearnerPort
from serve_app.streams.service import Streams


class ModelEntry(Protocol):
    """One name that callers may put in `model`."""

    @property
    def id(self) -> str:
        """The name."""

    @property
    def description(self) -> str:
        """One line: what asking for it does."""


class Catalogue(Protocol):
    """The names that callers may ask for."""

    def resolve(self, model: str) -> Strategy:
        """The strategy behind a name. Raises ModelNotFound."""

    def models(self) -> Sequence[ModelEntry]:
        """All names worth listing, the default first."""


class Routers(Protocol):
    """The routers behind the catalogue, as they change while the endpoint serves."""

    def start(self) -> None:
        """Follow changes from now on; in the running event loop."""

    async def aclose(self) -> None:
        """Stop following, and end what computes scores."""

    def figures(self) -> Sequence[Any]:
        """A dataclass for each router: name, version, threshold, drift and the like."""

    def judged(self, record: Mapping[str, Any], score: float) -> None:
        """Feedback on a stored decision."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether queries can be answered now; `pools` says per pool what is there (JSON-ready values)."""

    ok: bool
    pools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


async def no_scrape() -> str:
    """No metrics beside our own."""
    return ""


@dataclass(frozen=True)
class Services:
    """The parts. `keys` maps tenant to key; without keys everybody may call.

    `ready` is asked by /health/ready and never waits; the default asks the pools for their replicas.
    `gateways` gives the own metrics of all Gateways, told apart by a label; without it this one's are shown.
    `scrape` gives further metrics in Prometheus' text format, for instance those of the replicas' engines.
    `demand` counts what decisions want of the pools; `places` shares this Gateway among tenants.
    """

    config: Config
    catalogue: Catalogue
    pools: Mapping[str, Pool]
    store: Store
    recorder: Recorder
    access_log: AccessLog
    routers: Routers
    keys: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], Readiness] | None = None
    gateways: Callable[[], Awaitable[str]] | None = None
    scrape: Callable[[], Awaitable[str]] = no_scrape
    demand: Demand = field(default_factory=Demand)
    places: FairPlaces = field(default_factory=unbounded)
    streams: Streams | None = None

    async def start(self) -> None:
        """Open the store and follow the routers; the first thing to call. Raises ConfigError if it cannot be opened."""
        await self.store.start()
        self.routers.start()
        if self.streams is not None:
            self.streams.start()

    async def aclose(self) -> None:
        """Write what is queued, then close the pools. Idempotent."""
        await self.store.aclose()  # first: what is queued must be written even if the time to stop is short
        if self.streams is not None:
            await self.streams.aclose()
        await self.routers.aclose()
        for pool in self.pools.values():
            await pool.aclose()
        await asyncio.to_thread(self.access_log.close)

    def settle(self, record: RequestRecord) -> None:
        """Metrics, log line and stored decision of a request that is over; never waits."""
        self.recorder.ended(record)
        for step in record.steps:
            self.demand.spent(step.pool, step.usage.prompt_tokens, step.usage.completion_tokens)
        self.access_log.write(record)
        if record.decision is not None:
            self.store.record(record)

    def readiness(self) -> Readiness:
        """Whether every required pool has a healthy replica."""
        return self.ready() if self.ready is not None else pools_ready(self.config, self.pools)


def build_services(
    config: Config,
    pools: Mapping[str, Pool],
    *,
    replica: str = "",
    scorer: Remote | None = None,
    learner: LearnerPort | None = None,
) -> Services:
    """The services of a config over given pools; `replica` names this process in the request log.

    Loads the routers, which takes its time: call it in a thread where an event loop runs. `scorer` is where heavy
    routers score; without it they score here. `learner` is where streams are learned; without it there are none.
    Raises ConfigError for a router that cannot be loaded or a key whose environment variable is not set.
    """
    loader = Loader.from_config(config, scorer)
    relief = Relief.from_config(config)
    routing = config.routing
    catalogue = RoutingCatalogue(pools, loader.load(), routing.explain, routing.multi_pool, relief, config.cascade)
    routers = Reloader(loader, catalogue, routing.reload_s)
    store = SqliteStore(config.store)
    recorder = Recorder()
    recorder.watch_store(store)
    recorder.watch_routers(routers.figures)
    streams = _streams(config, pools, replica, learner)
    if streams is not None:
        recorder.watch_streams(streams)
    return Services(
        config=config,
        catalogue=catalogue if streams is None else WithStreams(catalogue, streams),
        streams=streams,
        routers=routers,
        pools=pools,
        store=store,
        recorder=recorder,
        access_log=JsonLog(replica=replica) if config.log.access else NoLog(),
        keys=_keys(config.server.keys),
        places=_places(config),
    )


def _streams(config: Config, pools: Mapping[str, Pool], replica: str, learner: LearnerPort | None) -> Streams | None:
    """This Gateway's side of the streams; its events bear a name that no other process ever has."""
    if learner is None:
        return None
    return Streams(learner, pools, config.streams, f"{replica or 'gateway'}-{secrets.token_hex(6)}")


def _places(config: Config) -> FairPlaces:
    options = config.gateway
    weights = {key.name: key.weight for key in config.server.keys}
    return FairPlaces(options.max_ongoing_requests, config.limits.tenant_share, weights, options.retry_after_s)


def _keys(references: Sequence[KeyConfig]) -> dict[str, str]:
    """Tenant to key. Two tenants with the same key could not be told apart."""
    keys: dict[str, str] = {}
    for reference in references:
        value = secret(reference.env, used_by=f"server.keys.{reference.name}")
        if value in keys.values():
            raise ConfigError(f"server.keys.{reference.name}: {reference.env} holds another tenant's key; use its own")
        keys[reference.name] = value
    return keys


def pools_ready(config: Config, pools: Mapping[str, Pool]) -> Readiness:
    """Readiness by the pools' own word: a required pool needs a replica that answers, unless it may have none."""
    detail: dict[str, dict[str, Any]] = {}
    for name, settings in config.pools.items():
        pool = pools.get(name)
        load = pool.load() if pool is not None else None
        detail[name] = {
            # a pool that may sleep is ready asleep: the first query wakes it
            "ok": load is not None and (load.replicas > 0 or settings.replicas.min == 0),
            "required": settings.required,
            "replicas": load.replicas if load else 0,
            "in_flight": load.in_flight if load else 0,
            "waiting": load.waiting if load else 0,
        }
    return Readiness(all(d["ok"] for d in detail.values() if d["required"]), detail)
