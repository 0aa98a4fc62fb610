"""The config tree: every setting with its type, unit, bounds and default.

Settings of what is kept of requests: the decision log and the request log.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from serve_app.config.base import Node
from serve_app.config.cluster import ClusterConfig
from serve_app.config.engines import EngineConfig, OpenAIEngine
from serve_app.config.placement import refusal
from serve_app.config.strategies import CascadeConfig, StreamsConfig


class StoreConfig(Node):
    """The decision log."""

    path: str = Field("var/jethro.sqlite3", description="SQLite file; relative to the working directory.")
    batch: PositiveInt = 256
    flush_s: PositiveFloat = 0.5
    queue: PositiveInt = Field(50_000, description="Decisions waiting for the writer; beyond it they are counted lost.")
    keep_prompts: bool = False
    keep_days: PositiveInt = 30


class LogConfig(Node):
    """The request log, one JSON line a request on stderr of the Gateway."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


Probability = Annotated[float, Field(ge=0, le=1)]
_LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|localhost|::1)$")


class KeyConfig(Node):
    """A caller's key by reference: the environment variable `env` holds it, `name` is the tenant."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    weight: PositiveFloat = Field(1.0, description="Of the tenant's share of a Gateway's places under load.")
    min_quality: Probability | None = Field(
        None, description="Queries expected to be answered worse than this are not moved for want of capacity."
    )


class ServerConfig(Node):
    """Where the endpoint listens and whom it answers."""

    host: str = Field("127.0.0.1", description="Address to bind; beyond localhost keys are required.")
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    keys: tuple[KeyConfig, ...] = ()
    allow_unauthenticated: bool = Field(False, description="Listen beyond localhost without keys; say so explicitly.")
    expose_docs: bool = True

    @model_validator(mode="after")
    def _open_only_if_said(self) -> Self:
        if not _LOOPBACK.match(self.host) and not self.keys and not self.allow_unauthenticated:
            raise ValueError(
                f"listening on {self.host} without keys is refused: add server.keys, set host to 127.0.0.1, "
                "or set server.allow_unauthenticated: true if a proxy in front checks keys"
            )
        return self


class LimitsConfig(Node):
    """Bounds on what a caller may ask; checked before any model sees it."""

    body_bytes: PositiveInt = 1_048_576
    messages: PositiveInt = 512
    n: PositiveInt = 8
    stop: PositiveInt = 4
    stop_chars: PositiveInt = 256
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 20
    max_tokens: PositiveInt = 32_768
    tools: PositiveInt = 128
    request_timeout_s: PositiveFloat = 600.0
    tenant_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.9,
        description="Most of a Gateway's places that one tenant may hold when alone, less as others come; null: all.",
    )


class GatewayConfig(Node):
    """The router replicas."""

    replicas: PositiveInt = 1
    num_cpus: NonNegativeFloat = 0.2
    max_ongoing_requests: PositiveInt = Field(1024, description="Requests open at once in one Gateway.")
    max_queued_requests: Annotated[int, Field(ge=-1)] = Field(2048, description="Beyond it 503 with Retry-After.")
    retry_after_s: PositiveInt = 1
    drain_s: PositiveFloat = Field(20.0, description="Longest wait for open requests when a replica stops.")


class ReplicasConfig(Node):
    """Replicas between bounds; `replicas: 2` means exactly two.

    `share` follows what the Gateways' decisions want of the pool, ahead of its queue; `in_flight` follows the requests
    that its replicas hold.
    """

    min: Annotated[int, Field(ge=0)] = Field(1, description="0: an idle pool sleeps, and the first query wakes it.")
    max: PositiveInt = 1
    policy: Literal["share", "in_flight"] = "share"
    concurrency: PositiveFloat = Field(8.0, description="share: calls that a replica serves at once without slowing.")
    headroom: NonNegativeFloat = Field(
        1.0, description="share: spare places, in square roots of the load (square-root staffing)."
    )
    warm_up_s: NonNegativeFloat = Field(10.0, description="share: from the wish for a replica to its first answer.")
    hold_s: NonNegativeFloat = Field(60.0, description="share: how long a lower wish lasts before it is followed.")
    idle_s: NonNegativeFloat = Field(120.0, description="share: without a call for so long a pool of min 0 sleeps.")
    target_ongoing_requests: PositiveFloat = Field(8.0, description="in_flight: requests in a replica.")
    upscale_delay_s: NonNegativeFloat = Field(10.0, description="in_flight: wait before replicas are added.")
    downscale_delay_s: NonNegativeFloat = Field(120.0, description="in_flight: wait before replicas are removed.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: lower min or raise max")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to scale."""
        return self.min == self.max


class ResourcesConfig(Node):
    """What Ray reserves for one replica."""

    num_cpus: NonNegativeFloat = 0.4
    num_gpus: NonNegativeFloat = 0.0
    accelerator_type: str | None = None
    memory_gib: PositiveFloat | None = None


class PriceConfig(Node):
    """US dollars for a million tokens; for your own GPUs, what an hour costs by what an hour writes."""

    input_usd_per_million: NonNegativeFloat = 0.0
    output_usd_per_million: NonNegativeFloat = 0.0


class PoolConfig(Node):
    """Engines of one kind."""

    model: str = Field(description="The id that callers see and may ask for.")
    engine: EngineConfig
    price: PriceConfig = PriceConfig()
    replicas: ReplicasConfig = ReplicasConfig(min=1, max=1)
    resources: ResourcesConfig = ResourcesConfig()
    max_ongoing_requests: PositiveInt = Field(64, description="Requests open at once in one replica.")
    max_queued_requests: Annotated[int, Field(ge=0)] = Field(256, description="Waiting in one replica; then 429.")
    drain_s: PositiveFloat = 30.0
    wait_s: NonNegativeFloat = Field(10.0, description="How long a request waits for a replica when there is none.")
    required: bool = Field(True, description="Ready only when this pool has a healthy replica.")

    @field_validator("replicas", mode="before")
    @classmethod
    def _fixed(cls, replicas: object) -> object:
        return {"min": replicas, "max": replicas} if type(replicas) is int else replicas

    @model_validator(mode="after")
    def _within(self) -> Self:
        bounds = self.replicas
        if not bounds.fixed and bounds.policy == "share" and bounds.concurrency > self.max_ongoing_requests:
            raise ValueError(
                f"replicas.concurrency {bounds.concurrency:g} is above max_ongoing_requests "
                f"{self.max_ongoing_requests}, which a replica never exceeds: lower it or raise that"
            )
        return self

    @property
    def remote(self) -> bool:
        """Whether the pool is fixed addresses that somebody else runs."""
        return isinstance(self.engine, OpenAIEngine)


class MultiPoolConfig(Node):
    """Routing over all pools, under the name jethro-route-all; needs a router that estimates each pool."""

    quality_usd: PositiveFloat = Field(description="What one unit of quality (a right answer) is worth, US dollars.")
    caution: NonNegativeFloat = Field(0.0, description="Standard errors that an uncertain quality is marked down by.")
    router: str = Field("estimator", description="The router that estimates; it must be offered.")


class CapacityConfig(Node):
    """Borderline queries go to the small pool while the large one is full."""

    enabled: bool = False
    from_utilisation: PositiveFloat = Field(0.8, description="Requests by places in the large pool: from here on.")
    to_utilisation: PositiveFloat = Field(1.5, description="Here the threshold has risen by all of the shift.")
    max_threshold_shift: Probability = Field(0.3, description="Most that is added to the threshold.")
    quality_floor: Probability | None = Field(
        None, description="Quality that is expected of the small pool at least; needs calibration data."
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.to_utilisation <= self.from_utilisation:
            raise ValueError(
                f"to_utilisation {self.to_utilisation:g} must be above from_utilisation {self.from_utilisation:g}"
            )
        return self


class RoutingConfig(Node):
    """The router and how its score becomes a choice. At most one of the three ways to a threshold is set."""

    router: str | None = Field(
        None, description="A registered router's name, or a folder that holds one; null: the registry's default."
    )
    registry: str = Field("var/routers", description="Folder of registered routers; relative to the working directory.")
    offered: tuple[str, ...] | None = Field(
        None, description="Routers that callers may name beside the default; null: all of the registry."
    )
    reload_s: NonNegativeFloat = Field(1.0, description="How often the registry is looked at; 0: never again.")
    threshold: Probability | None = Field(None, description="Strong if the win rate is at least this.")
    strong_share: Probability | None = Field(None, description="Calibrate the threshold to this share of strong calls.")
    max_quality_drop: Probability | None = Field(None, description="Calibrate to this mean quality drop.")
    guarantee: Literal["expectation", "ltt"] | None = Field(
        None, description="Promise max_quality_drop of like traffic: in expectation, or with confidence 1 - delta."
    )
    delta: Probability = Field(0.1, description="With ltt (Learn then Test): the risk that the promise is broken.")
    multi_pool: MultiPoolConfig | None = Field(None, description="Routing over all pools; null: not offered.")
    capacity: CapacityConfig = CapacityConfig()
    seed: int = 0
    score_timeout_ms: PositiveFloat = Field(2000.0, description="Without a score in this time the strong pool answers.")
    score_threads: PositiveInt = Field(1, description="Threads that compute scores of encoder routers in a Gateway.")
    score_batch: PositiveInt = Field(16, description="Most queries scored at once by an encoder router.")
    score_cache: PositiveInt = Field(20_000, description="Scores remembered by the hash of the text, for each router.")
    explain: Literal["asked", "inline", "all"] = Field(
        "inline",
        description="Which decisions show what moved them: asked for by /v1/route, and logged ones of inline or all.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [k for k in ("threshold", "strong_share", "max_quality_drop") if getattr(self, k) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} contradict each other: keep one")
        if self.guarantee is not None and self.max_quality_drop is None:
            raise ValueError("guarantee is a promise of max_quality_drop: set that too")
        return self


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
    """Everything. `small` and `large` must be among the pools."""

    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    gateway: GatewayConfig = GatewayConfig()
    pools: dict[str, PoolConfig]
    routing: RoutingConfig = RoutingConfig()
    cascade: CascadeConfig = CascadeConfig()
    scorer: ScorerConfig = ScorerConfig()
    streams: StreamsConfig = StreamsConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("pools")
    @classmethod
    def _pools(cls, pools: dict[str, PoolConfig]) -> dict[str, PoolConfig]:
        missing = [name for name in ("small", "large") if name not in pools]
        if missing:
            raise ValueError(f"pool {' and '.join(missing)} missing: the router chooses between small and large")
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

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if (reason := refusal(self)) is not None:
            raise ValueError(reason)
        return self
