"""The config tree: every setting with its type, unit, bounds and default."""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from serve_app.config.adapters import AdaptersConfig
from serve_app.config.base import CorsConfig, LogConfig, Node
from serve_app.config.base import StoreConfig as StoreConfig  # a branch that others name
from serve_app.config.cluster import ClusterConfig, ResourceDemand, misfit
from serve_app.config.guards import GuardsConfig
from serve_app.config.kubernetes import KubernetesConfig
from serve_app.config.orchestration import OrchestrationConfig
from serve_app.config.placement import PlacementConfig
from serve_app.config.pools import PoolConfig, ResourcesConfig
from serve_app.config.strategies import CascadeConfig, EnsembleConfig, RoutingConfig, StreamsConfig
from serve_app.front.settings import FrontBounds
from serve_app.images import ImageType
from serve_app.types import Place, Privacy

Probability = Annotated[float, Field(ge=0, le=1)]
_FRONT_MARGIN_S = 60.0
_BODY_WITH_IMAGES = 20_971_520
_LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|localhost|::1)$")


class KeyConfig(Node):
    """A caller's key: the environment variable `env` holds it, `name` is the tenant."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = Field(
        description="The tenant; decisions and streams belong to it."
    )
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Environment variable that holds the key."
    )
    weight: PositiveFloat = Field(1.0, description="Of the tenant's share of a Gateway's places under load.")
    min_quality: Probability | None = Field(
        None, description="Queries with an expected quality below this are not moved to relieve the large pool."
    )
    privacy: Privacy | None = Field(
        None, description="Class of the tenant's requests; its header may only tighten it. null: placement.default."
    )
    may_loosen: bool = Field(False, description="The tenant's header may loosen it; see placement.may_loosen.")


AliasName = Annotated[str, Field(min_length=1, max_length=256)]
ModelTarget = Annotated[str, Field(min_length=1, max_length=256)]


class ServerConfig(Node):
    """Address of the endpoint, and its callers."""

    host: str = Field("127.0.0.1", description="Address to bind; beyond localhost keys are required.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8000, description="Port to listen on.")
    keys: tuple[KeyConfig, ...] = Field((), description="Callers' keys; empty: no key is required.")
    allow_unauthenticated: bool = Field(False, description="Listen beyond localhost without keys; say so explicitly.")
    model_aliases: dict[AliasName, ModelTarget] = Field(
        {},
        description="Further names for models, on every API: what callers may send to what it stands for, as in "
        "`claude-*: jethro`. `*` and `?` match anything and one character; a name that exists is never replaced.",
    )
    cors: CorsConfig = CorsConfig()
    expose_docs: bool = Field(True, description="Serve the API documentation at /docs.")
    expose_console: bool = Field(True, description="Serve the console at /console; a browser that opens / gets it.")
    unknown_fields: Literal["reject", "drop", "pass"] = Field(
        "reject",
        description="Unknown parameters of chat and completions: refused with status 400, left out, or "
        "passed on to upstreams of engine.kind openai and left out elsewhere.",
    )
    metrics_key_env: str | None = Field(
        None,
        description="Environment variable with the key of /metrics, which without it is closed where keys are set.",
    )
    admin_key_env: str | None = Field(
        None,
        description="Environment variable with the operator's key: it opens /v1/admin, which changes thresholds and "
        "shows all tenants' decisions, and nothing else.",
    )
    connections: Annotated[int, Field(ge=16)] = Field(
        16_384, description="Most connections at once; fewer where the process may not open that many files."
    )
    source_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.75, description="Most of the connections for one address."
    )
    header_s: PositiveFloat = Field(10.0, description="Longest time for a request's headers to arrive.")
    niceness: Annotated[int, Field(ge=0, le=19)] = Field(
        0, description="Of the serving processes; Ray's own default of 15 yields to all else on the machine."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not _LOOPBACK.match(self.host) and not self.keys and not self.allow_unauthenticated:
            raise ValueError(
                f"listening on {self.host} without keys is refused: add server.keys, set host to 127.0.0.1, "
                "or set server.allow_unauthenticated: true if a proxy in front checks keys"
            )
        return self


class LimitsConfig(Node):
    """Bounds on requests, checked before any model is called."""

    body_bytes: PositiveInt = Field(
        1_048_576, description="Largest request body. Unless it is set: 20971520 where a pool is set to have `vision`."
    )
    messages: PositiveInt = Field(512, description="Most messages of a conversation.")
    n: PositiveInt = Field(8, description="Most choices of a request, or of each of its prompts.")
    prompts: PositiveInt = Field(128, description="Most prompts of one request for completions.")
    stop: PositiveInt = Field(4, description="Most stop sequences.")
    stop_chars: PositiveInt = Field(256, description="Longest stop sequence.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = Field(20, description="Most log-probabilities per token.")
    max_tokens: PositiveInt = Field(32_768, description="Longest answer.")
    tools: PositiveInt = Field(128, description="Most tools of a request.")
    images: Annotated[int, Field(ge=0)] = Field(20, description="Most images of a request; 0: none is accepted.")
    image_bytes: PositiveInt = Field(
        5_242_880, description="Largest image that is given as a data URI, without its encoding."
    )
    image_types: tuple[ImageType, ...] = Field(
        ("image/png", "image/jpeg", "image/webp", "image/gif"), description="Types that an image of a data URI may be."
    )
    image_url_chars: PositiveInt = Field(8192, description="Longest URL of an image that is not a data URI.")
    request_timeout_s: PositiveFloat = Field(600.0, description="Deadline of a request.")
    tenant_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.9, description="Largest share of a Gateway's places for one tenant alone, less when others call; null: all."
    )


class GatewayConfig(Node):
    """The router replicas."""

    replicas: PositiveInt = Field(1, description="Number of Gateways.")
    num_cpus: NonNegativeFloat = Field(0.2, description="CPUs that Ray reserves for each.")
    max_ongoing_requests: PositiveInt = Field(1024, description="Requests open at once in one Gateway.")
    max_queued_requests: Annotated[int, Field(ge=-1)] = Field(2048, description="Beyond it 503 with Retry-After.")
    retry_after_s: PositiveInt = Field(1, description="Value of Retry-After.")
    drain_s: PositiveFloat = Field(20.0, description="Longest wait for open requests when a replica stops.")


class ScorerConfig(Node):
    """Replicas for routers too heavy for the Gateway, such as causal language models."""

    replicas: Annotated[int, Field(ge=0)] | None = Field(
        None, description="null: one if the configured router needs it; 0: heavy routers score in the Gateways."
    )
    encoders: bool = Field(False, description="Encoder routers score there too, so that Gateways load no torch.")
    resources: ResourcesConfig = ResourcesConfig()
    threads: PositiveInt = Field(1, description="Threads that compute scores in a replica.")
    batch: PositiveInt = Field(8, description="Most queries scored at once.")
    start_timeout_s: PositiveFloat = Field(120.0, description="Longest wait of a Gateway for a router to be loaded.")

    @property
    def placements(self) -> tuple[Literal["batched", "scorer"], ...]:
        """Which routers score there, by where they would score otherwise."""
        return ("batched", "scorer") if self.encoders else ("scorer",)


class Config(Node):
    """Everything. `small` must be among the pools, and `large` unless `small_only` is set."""

    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    gateway: GatewayConfig = GatewayConfig()
    small_only: bool = Field(False, description="There is no pool large: every query goes to small, undecided.")
    pools: dict[str, PoolConfig]
    routing: RoutingConfig = RoutingConfig()
    cascade: CascadeConfig = CascadeConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    orchestration: OrchestrationConfig = OrchestrationConfig()
    adapters: AdaptersConfig = AdaptersConfig()
    scorer: ScorerConfig = ScorerConfig()
    streams: StreamsConfig = StreamsConfig()
    placement: PlacementConfig = PlacementConfig()
    guards: GuardsConfig = GuardsConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()
    cluster: ClusterConfig = ClusterConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()

    @property
    def chat_pools(self) -> dict[str, PoolConfig]:
        """The pools that answer chat: all but those that embed."""
        return {name: pool for name, pool in self.pools.items() if not pool.embeds}

    def pools_of(self, places: Collection[Place]) -> frozenset[str]:
        """Names of the pools of these places."""
        return frozenset(name for name, pool in self.pools.items() if pool.located in places)

    def secrets(self) -> dict[str, str]:
        """Environment variables that hold secrets, with the key of this tree that names each."""
        found = {key.env: f"server.keys ({key.name})" for key in self.server.keys}
        if self.server.metrics_key_env:
            found[self.server.metrics_key_env] = "server.metrics_key_env"
        if self.server.admin_key_env:
            found[self.server.admin_key_env] = "server.admin_key_env"
        for name, pool in self.pools.items():
            for key in ("api_key_env", "proxy_auth_env"):
                if env := getattr(pool.engine, key, None):
                    found[env] = f"pools.{name}.engine.{key}"
        return found

    @property
    def routed_models(self) -> tuple[str, str]:
        """The ids of the weak and the strong model, which the router chooses between; one for both with small_only."""
        return self.pools["small"].model, self.pools["small" if self.small_only else "large"].model

    def front_bounds(self) -> FrontBounds:
        """Bounds of the HAProxy in front. A caller is cut off only after the deadline of any request."""
        return FrontBounds(
            connections=self.server.connections,
            share_per_source=self.server.source_share,
            header_s=self.server.header_s,
            silence_s=self.limits.request_timeout_s + _FRONT_MARGIN_S,
        )

    @field_validator("pools")
    @classmethod
    def _pools(cls, pools: dict[str, PoolConfig], info: ValidationInfo) -> dict[str, PoolConfig]:
        required = ("small",) if info.data.get("small_only") else ("small", "large")
        if missing := [name for name in required if name not in pools]:
            alone = "; add it, or set small_only: true" if missing == ["large"] else ""
            raise ValueError(f"pool {' and '.join(missing)} missing: the router chooses between small and large{alone}")
        if wrong := [name for name in required if pools[name].embeds]:
            raise ValueError(f"pool {wrong[0]} is an embedding model: it answers no chat; give it another name")
        for name in pools:
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
                raise ValueError(f"pool name {name!r}: use a-z, 0-9, _ and -, beginning with a letter")
        models = [p.model for p in pools.values()]
        taken = sorted(
            {m for m in models if models.count(m) > 1} | {m for m in models if m.startswith(("jethro", "router-"))}
        )
        if taken:
            raise ValueError(f"model id {', '.join(taken)}: ids must differ and not begin with jethro or router-")
        return pools

    @model_validator(mode="before")
    @classmethod
    def _undecided(cls, tree: Any) -> Any:
        """Without a large pool no router is read, be it the registry's default."""
        if not isinstance(tree, dict) or tree.get("small_only") is not True:
            return tree
        routing = tree.get("routing", {})
        return tree | {"routing": {"router": "random", "offered": [], **routing}} if isinstance(routing, dict) else tree

    @model_validator(mode="after")
    def _roomy(self) -> Self:
        """A few images are larger than any text; where no model sees them, no body needs their room."""
        if "body_bytes" not in self.limits.model_fields_set and any(
            getattr(pool.engine, "vision", None) for pool in self.pools.values()
        ):
            limits = self.limits.model_copy(update={"body_bytes": _BODY_WITH_IMAGES})
            object.__setattr__(self, "limits", limits)  # the tree is frozen for everyone else
        return self

    @model_validator(mode="after")
    def _paired(self) -> Self:
        """With small_only nothing may need a large pool."""
        if self.small_only:
            routing, cascade = self.routing, self.cascade
            refused = {
                "pools.large": self.pools.get("large"),
                "routing.router": None if routing.router == "random" else routing.router,
                "routing.multi_pool": routing.multi_pool,
                "routing.best_of": routing.best_of,
                "cascade.chain": cascade.chain or cascade.levels,
                "cascade.streaming.chain": cascade.streaming.chain or cascade.streaming.levels,
                "cascade.routing": cascade.routing,
            }
            if named := [key for key, value in refused.items() if value is not None]:
                raise ValueError(f"small_only leaves out the pool large: remove {' and '.join(named)}, or small_only")
        return self

    @model_validator(mode="after")
    def _managed(self) -> Self:
        tenants = [key.name for key in self.server.keys]
        if unknown := [name for name in self.adapters.managers if name not in tenants]:
            raise ValueError(
                f"adapters.managers: no key is named {', '.join(unknown)}: name tenants of server.keys, which are "
                f"{', '.join(tenants) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Device mismatches and missing machines are found before anything starts."""
        errors = (pool.device_error(f"pools.{name}") for name, pool in self.pools.items())
        error = next((e for e in errors if e is not None), None) or misfit(self.cluster.nodes, list(self.demands()))
        if error is not None:
            raise ValueError(error)
        return self

    @model_validator(mode="after")
    def _placed(self) -> Self:
        """Rules that name what there is not would restrict nothing, or everything."""
        tenants = {key.name for key in self.server.keys}
        for number, rule in enumerate(self.placement.rules):
            key = f"placement.rules.{number}"
            if unknown := sorted(set(rule.pools) - set(self.pools)):
                raise ValueError(f"{key}.pools: no pool {unknown[0]!r}; there are {', '.join(self.pools)}")
            if rule.tenants is not None and (unknown := sorted(set(rule.tenants) - tenants)):
                raise ValueError(f"{key}.tenants: no key {unknown[0]!r} in server.keys: add it, or correct the name")
        pool = self.placement.personal_data.names_pool
        if pool is not None and (pool not in self.pools or self.pools[pool].located != "local"):
            raise ValueError(
                f"placement.personal_data.names_pool: {pool!r} must be a pool of place local, since it sees every "
                "request before its class is known"
            )
        return self

    def demands(self) -> Iterator[ResourceDemand]:
        """What Ray must place: Gateways, Scorer, Learner, then the pools that are not remote."""
        yield ResourceDemand("gateway.num_cpus", self.gateway.num_cpus, replicas=self.gateway.replicas)
        if self.scorer.replicas:
            yield self.scorer.resources.demand("scorer.resources", self.scorer.replicas)
        if self.streams.enabled:
            yield ResourceDemand("streams.num_cpus", self.streams.num_cpus)
        for name, pool in self.pools.items():
            if not pool.remote:
                yield pool.resources.demand(f"pools.{name}.resources", pool.replicas.min)
