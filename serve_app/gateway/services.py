"""The composition root: everything that the HTTP API uses, built from a config and passed as one value."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from serve_app.autoscaling.signals import Demand
from serve_app.config.engines import VllmSettings
from serve_app.config.load import secret
from serve_app.config.tree import Config, KeyConfig, ServerConfig
from serve_app.ensemble.serving.model_loading import ModelLoader, ModelThreads, RemoteModels
from serve_app.errors import ConfigError
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.fairness import FairLimiter
from serve_app.gateway.reload import Reloader
from serve_app.gateway.scope import ScopeNotes
from serve_app.guards.chain import Guards
from serve_app.guards.personal.detector import PersonalData
from serve_app.guards.recognizers import chain_of
from serve_app.observability.access_log import AccessLog, JsonLog, NoLog
from serve_app.observability.live import LiveFigures
from serve_app.observability.metrics import Recorder, SilentRecorder
from serve_app.placement.policy import PlacementPolicy
from serve_app.placement.pool import PlacedPool
from serve_app.placement.redaction import Redactor
from serve_app.pools.base import Pool
from serve_app.pools.http import HttpPool
from serve_app.routing.serving.loading import Loader, RemoteScorer, limit_torch_threads
from serve_app.routing.sessions import Sessions
from serve_app.store.base import RequestRecord, Store
from serve_app.store.sqlite import SqliteStore
from serve_app.streams.base import LearnerPort
from serve_app.streams.service import Streams
from serve_app.tracing.spans import Tracing
from serve_app.types import Capabilities


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether queries can be answered now, with details by pool (JSON-ready values).

    `degraded`: every routed query can, but a pool is down, so that others answer in its place.
    """

    ok: bool
    degraded: bool = False
    pools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


async def no_scrape() -> str:
    """No further metrics."""
    return ""


@dataclass(frozen=True)
class Services:
    """The parts. `keys` maps tenant to key; without keys no key is required.

    `ready` is called by /health/ready and never waits; by default see `pools_ready`.
    `gateways` returns the metrics of all Gateways, distinguished by a label; by default only this one's are shown.
    `scrape` returns further metrics in Prometheus' text format, for instance those of the replicas' engines.
    `demand` counts the requests that decisions place on the pools; `limiter` shares this Gateway among tenants.
    `metrics_key` opens /metrics where there are keys, `admin_key` opens /v1/admin; None: not configured.
    `stops` holds a call for every request that is being answered, which ends it with an error.
    `sessions` remembers with which pools conversations are.
    `scope` warns where an embedded model answers what it does not know.
    `live` counts what ends, for the console; `live_gateways` returns what all Gateways counted, by default this one's.
    """

    config: Config
    catalogue: Catalogue
    pools: Mapping[str, Pool]
    store: Store
    recorder: Recorder
    access_log: AccessLog
    routers: Reloader
    keys: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], Readiness] | None = None
    gateways: Callable[[], Awaitable[str]] | None = None
    scrape: Callable[[], Awaitable[str]] = no_scrape
    demand: Demand = field(default_factory=Demand)
    limiter: FairLimiter = field(default_factory=FairLimiter)
    streams: Streams | None = None
    metrics_key: str | None = None
    admin_key: str | None = None
    stops: set[Callable[[], None]] = field(default_factory=set)
    models: ModelLoader | None = None
    placement: PlacementPolicy | None = None
    adapters: GatewayAdapters | None = None
    scope: ScopeNotes = field(default_factory=ScopeNotes)
    guards: Guards | None = None
    tracing: Tracing | None = None
    sessions: Sessions | None = None
    live: LiveFigures = field(default_factory=LiveFigures)
    live_gateways: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None = None

    async def start(self) -> None:
        """Open the store and follow the routers; call it first. Raises ConfigError if the store cannot be opened."""
        await self.store.start()
        self.routers.start()
        if self.adapters is not None:
            self.adapters.start()
        if self.streams is not None:
            self.streams.start()

    async def aclose(self) -> None:
        """Write what is queued, then close the pools. Idempotent."""
        await self.store.aclose()  # first: what is queued must be written even if the time to stop is short
        if self.streams is not None:
            await self.streams.aclose()
        await self.routers.aclose()
        if self.adapters is not None:
            await self.adapters.aclose()
        if self.models is not None:
            await asyncio.to_thread(self.models.close)
        for pool in self.pools.values():
            await pool.aclose()
        await asyncio.to_thread(self.access_log.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def settle(self, record: RequestRecord) -> None:
        """Metrics, log line and stored decision of a request that is over; never waits."""
        if record.unrecorded:
            record = record.without_content()
        self.recorder.ended(record)
        if self.config.log.metrics:
            self.live.ended(record)
        for step in record.steps:
            self.demand.spent(step.pool, step.usage.prompt_tokens, step.usage.completion_tokens)
        self.access_log.write(record)
        if record.decision is not None:
            self.store.record(record)

    @property
    def reads_text(self) -> bool:
        """Whether guards or the detection of personal data have to see what a request says."""
        return self.guards is not None or (self.placement is not None and self.placement.reads_text)

    def readiness(self) -> Readiness:
        """Whether every routed query can be answered."""
        return self.ready() if self.ready is not None else pools_ready(self.config, self.pools)


def build_services(
    config: Config,
    pools: Mapping[str, Pool],
    *,
    replica: str = "",
    scorer: RemoteScorer | None = None,
    learner: LearnerPort | None = None,
    remote_models: RemoteModels | None = None,
) -> Services:
    """The services of a config over given pools; `replica` names this process in the request log.

    Loads the routers, which is slow: call it in a thread where an event loop runs. `scorer` is where heavy routers
    score, `remote_models` where rankers and fusers run; by default all do here. `learner` is where streams learn;
    without it there are none.
    Raises ConfigError for a router that cannot be loaded or a key whose environment variable is not set.
    """
    own_pools = pools
    personal = PersonalData(config.placement.personal_data, pools) if _detects(config) else None
    pools = placed_pools(config, pools, personal)
    loader = Loader.from_config(config, scorer)
    chat = {name: pool for name, pool in pools.items() if not pool.capabilities.embeddings}
    streams = _streams(config, chat, replica, learner)
    begin = partial(limit_torch_threads, config.routing.score_threads)
    models = ModelLoader(ModelThreads(config.routing.score_batch, begin), remote_models)
    catalogue = Catalogue(config, pools, loader.load(), streams, loader.pinned, models)
    adapters = catalogue.adapters = GatewayAdapters(config, chat)
    guards, placement = _guards(config, chat), PlacementPolicy(config, personal)
    catalogue.guard_by(guards, placement.narrowed)
    routers = Reloader(loader, catalogue, config.routing.reload_s)
    store = SqliteStore(config.store)
    recorder = _recorder(config, own_pools)
    recorder.watch_store(store)
    recorder.watch_routers(routers.figures)
    if streams is not None:
        recorder.watch_streams(streams)
    keys = caller_keys(config.server.keys)
    metrics_key, admin_key = operator_keys(config.server, keys)
    return Services(
        config=config,
        catalogue=catalogue,
        streams=streams,
        routers=routers,
        models=models,
        adapters=adapters,
        pools=pools,
        store=store,
        recorder=recorder,
        access_log=JsonLog(replica=replica) if config.log.access else NoLog(),
        keys=keys,
        metrics_key=metrics_key,
        admin_key=admin_key,
        limiter=_limiter(config),
        placement=placement,
        scope=ScopeNotes.from_config(config),
        guards=guards,
        sessions=Sessions(config.routing),
        tracing=Tracing.from_config(config.log, replica),
        live=LiveFigures(pools["large"].price if "large" in pools and not config.small_only else None),
    )


def _limiter(config: Config) -> FairLimiter:
    weights = {key.name: key.weight for key in config.server.keys}
    gateway, share = config.gateway, config.limits.tenant_share
    return FairLimiter(gateway.max_ongoing_requests, share, weights, gateway.retry_after_s)


def _recorder(config: Config, pools: Mapping[str, Pool]) -> Recorder:
    """The metrics over these pools."""
    kind = Recorder if config.log.metrics else SilentRecorder
    recorder = kind(large=pools["large"].price if "large" in pools else None)
    recorder.watch_pools(pools, {name for name, pool in config.pools.items() if pool.replicas.min == 0})
    https = {name: pool for name, pool in pools.items() if isinstance(pool, HttpPool)}
    recorder.watch_calls({name: p.repairs for name, p in https.items()}, {name: p.retries for name, p in https.items()})
    return recorder


def _guards(config: Config, pools: Mapping[str, Pool]) -> Guards | None:
    """The guards of a config, None without any. Raises ConfigError for one that is invalid."""
    chain = chain_of(config.guards)
    for guard in chain:
        for name in (*(guard.pools or ()), *([guard.pool] if guard.pool is not None else [])):
            if name not in pools:
                raise ConfigError(f"guards: {guard.name}: no pool {name!r}; there are {', '.join(pools)}: name one")
    return Guards(config.guards, chain, config.placement.personal_data, pools) if chain else None


def _detects(config: Config) -> bool:
    return config.placement.detects or bool(config.placement.redaction.places)


def placed_pools(config: Config, pools: Mapping[str, Pool], personal: PersonalData | None = None) -> dict[str, Pool]:
    """Every pool behind a wrapper that refuses what it may not see, and redacts what it may only see redacted."""
    settings = config.placement.redaction
    placed: dict[str, Pool] = {}
    for name, pool in pools.items():
        found = config.pools.get(name)
        redactor = None
        if found is not None and personal is not None and found.located in settings.places:
            redactor = Redactor(personal, settings.categories, instruct=settings.instruct)
        salts = found is not None and isinstance(found.engine, VllmSettings)
        placed[name] = PlacedPool(pool, redactor=redactor, salts=salts, images=settings.images == "pass")
    return placed


def _streams(config: Config, pools: Mapping[str, Pool], replica: str, learner: LearnerPort | None) -> Streams | None:
    """This Gateway's side of the streams; its events carry a name that no other process has."""
    if learner is None:
        return None
    return Streams(learner, pools, config.streams, f"{replica or 'gateway'}-{secrets.token_hex(6)}")


def caller_keys(references: Sequence[KeyConfig]) -> dict[str, str]:
    """Tenant to key. Raises ConfigError for one that is not set, and for two that are the same: one would be lost."""
    keys: dict[str, str] = {}
    for reference in references:
        value = secret(reference.env, used_by=f"server.keys.{reference.name}")
        if value in keys.values():
            raise ConfigError(f"server.keys.{reference.name}: {reference.env} holds another tenant's key; use its own")
        keys[reference.name] = value
    return keys


def operator_keys(server: ServerConfig, keys: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The keys of /metrics and of /v1/admin, each None where it is not configured. `keys`: the callers'.

    Raises ConfigError for one that is not set, and for an operator's key that others hold too: they were operators.
    """
    metrics, admin = (
        secret(env, used_by=f"server.{key}") if env else None
        for key, env in (("metrics_key_env", server.metrics_key_env), ("admin_key_env", server.admin_key_env))
    )
    if admin is not None and admin in (metrics, *keys.values()):
        holder = "of /metrics" if admin == metrics else "of a caller"
        raise ConfigError(
            f"server.admin_key_env: {server.admin_key_env} holds the key {holder}, who could then change how the "
            "endpoint decides; use a key of its own"
        )
    return metrics, admin


def pools_ready(config: Config, pools: Mapping[str, Pool]) -> Readiness:
    """Readiness by the pools' load: a pool needs a replica that answers, or none if it may scale to zero.

    One that is down counts as `PoolConfig.required` says. One that has not started yet is waited for: until then the
    others are no substitute, but all that there is.
    """
    detail: dict[str, dict[str, Any]] = {}
    for name, settings in config.pools.items():
        pool = pools.get(name)
        load = pool.load() if pool is not None else None
        # a pool that may scale to zero is ready without replicas: the first query starts one
        ok = load is not None and (load.answers if load.replicas else settings.replicas.min == 0)
        detail[name] = {
            "ok": ok,
            "required": settings.required,
            "replicas": load.replicas if load else 0,
            "in_flight": load.in_flight if load else 0,
            "waiting": load.waiting if load else 0,
            "why": None if ok else (load.fault if load else None) or "no replica answers",
        }
    up = {name for name, found in detail.items() if found["ok"]}
    down = [name for name in detail if name not in up]
    ready = all(_dispensable(name, config, pools, up) for name in down)
    return Readiness(ready, ready and any(config.pools[name].required is None for name in down), detail)


def _dispensable(name: str, config: Config, pools: Mapping[str, Pool], up: Collection[str]) -> bool:
    """Whether the endpoint is ready without this pool: one of the two that route to each other can do all it could."""
    if (required := config.pools[name].required) is not None:
        return not required
    if config.pools[name].embeds:
        return True  # chat is answered without it
    pool = pools.get(name)
    if pool is None or not pool.load().started:
        return False
    others = [pools[other].capabilities for other in ("small", "large") if other in up]
    return any(_covers(other, pool.capabilities) for other in others)


def _covers(able: Capabilities, needed: Capabilities) -> bool:
    """Whether one engine supports whatever routed queries need of another; contexts are compared where both are known.

    Adapters are of one model, and are requested by its name: no other pool could answer for them in any case.
    """
    features = ("logprobs", "guided", "tools", *(("vision", "image_urls") if needed.vision else ()))
    if any(getattr(needed, name) and not getattr(able, name) for name in features):
        return False
    contexts = able.max_context_tokens, needed.max_context_tokens
    return None in contexts or (contexts[0] or 0) >= (contexts[1] or 0)
