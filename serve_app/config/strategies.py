"""Settings of routing, of fitted cascades and ensembles, and of named streams that are learned online."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from serve_app.config.base import FolderOrFile, Node

_POOL: Final = "pool:"
Share = Annotated[float, Field(ge=0, le=1)]


class MultiPoolConfig(Node):
    """Routing over all pools, under the name jethro-route-all; needs a router that estimates each pool."""

    quality_usd: PositiveFloat = Field(description="What one unit of quality (a right answer) is worth, US dollars.")
    caution: NonNegativeFloat = Field(0.0, description="Standard errors that an uncertain quality is marked down by.")
    router: str = Field("estimator", description="The router that estimates; it must be offered.")
    cached_discount: Share = Field(
        0.5,
        description="Share of the price of prompt tokens that a pool saves on those it has just read, and a change "
        "of pools within a conversation loses; 0: nothing.",
    )


class BestOfConfig(Node):
    """BEST-Route: the router chooses a pool and how many answers of it are drawn, and the best of them is returned."""

    select: Literal["vote", "ranker", "logprob"] | None = Field(
        None, description="What picks the answer; null: the ranker if there is one, else the votes."
    )
    ranker: FolderOrFile | None = Field(None, description="Folder of a ranker.")
    ranker_timeout_ms: PositiveFloat = Field(2000.0, description="Without scores in this time the votes decide.")
    normalizer: str = Field("text", description="The form in which answers are compared.")


class CapacityConfig(Node):
    """Borderline queries go to the small pool while the large one is full."""

    enabled: bool = Field(False, description="Let the load of the large pool raise the threshold.")
    from_utilisation: PositiveFloat = Field(0.8, description="Requests by places in the large pool: from here on.")
    to_utilisation: PositiveFloat = Field(1.5, description="Here the threshold has risen by all of the shift.")
    max_threshold_shift: Share = Field(0.3, description="Most that is added to the threshold.")
    quality_floor: Share | None = Field(
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

    router: FolderOrFile | None = Field(
        None, description="A registered router's name, or a folder that holds one; null: the registry's default."
    )
    registry: FolderOrFile = Field(
        "var/routers", description="Folder of registered routers; relative to the working directory."
    )
    offered: tuple[str, ...] | None = Field(
        None, description="Routers that callers may name besides the default; null: all of the registry."
    )
    reload_s: NonNegativeFloat = Field(1.0, description="How often the registry is looked at; 0: never again.")
    threshold: Share | None = Field(None, description="Strong if the win rate is at least this.")
    strong_share: Share | None = Field(None, description="Calibrate the threshold to this share of strong calls.")
    max_quality_drop: Share | None = Field(None, description="Calibrate to this mean quality drop.")
    guarantee: Literal["expectation", "ltt"] | None = Field(
        None, description="Promise max_quality_drop of like traffic: in expectation, or with confidence 1 - delta."
    )
    delta: Share = Field(0.1, description="With ltt (Learn then Test): the risk that the promise is broken.")
    multi_pool: MultiPoolConfig | None = Field(None, description="Routing over all pools; null: not offered.")
    best_of: BestOfConfig | None = Field(
        None, description="Serve the candidates of best_route routers; null: they choose between one answer of each."
    )
    capacity: CapacityConfig = CapacityConfig()
    stickiness: Literal["off", "tools", "session"] = Field(
        "tools",
        description="What stays with the pool that answered before: nothing; the turns of a tool loop, while the last "
        "messages are results of tools; or the whole conversation, which x-session-id may name.",
    )
    session_ttl_s: PositiveFloat = Field(
        600.0, description="How long a Gateway remembers the pool of a conversation after its last answer."
    )
    sessions: PositiveInt = Field(10_000, description="Conversations that a Gateway remembers, the newest of all.")
    seed: int = Field(0, description="Seed of the router `random`.")
    score_timeout_ms: PositiveFloat = Field(2000.0, description="Without a score in this time the strong pool answers.")
    score_threads: PositiveInt = Field(1, description="Threads that compute scores of encoder routers in a Gateway.")
    score_batch: PositiveInt = Field(16, description="Most queries scored at once by an encoder router.")
    score_cache: PositiveInt = Field(20_000, description="Scores remembered by the hash of the text, for each router.")
    explain: Literal["asked", "inline", "all"] = Field(
        "inline",
        description="Which decisions show feature contributions: those of /v1/route alone, also those of inline "
        "routers, or all.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [k for k in ("threshold", "strong_share", "max_quality_drop") if getattr(self, k) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} contradict each other: keep one")
        if self.guarantee is not None and self.max_quality_drop is None:
            raise ValueError("guarantee is a promise of max_quality_drop: set that too")
        return self


class LevelConfig(Node):
    """One level of a chain, as `chain.json` of a fitted cascade writes it; the last one has its pool alone."""

    pool: str = Field(description="The pool of this level.")
    signal: dict[str, Any] | None = Field(None, description='As {"name": "min_logprob"}.')
    calibrator: dict[str, Any] | None = Field(None, description="From signal to probability of being right.")
    threshold: NonNegativeFloat | None = Field(None, description="Taken if right with at least this probability.")


class RaceConfig(Node):
    """Borderline streams begin the next level at once; what is begun in vain is cancelled."""

    low: Share = Field(0.3, description="Router's strong win rate from which a query is borderline.")
    high: Share = Field(0.7, description="Router's strong win rate up to which it is.")
    wasted_share: Share = Field(0.05, description="Of all tokens, those that races may waste.")
    router: str = Field("complexity", description="The router whose score counts, if the chain names none.")

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: the band is empty; swap them")
        return self


class ChainConfig(Node):
    """A fitted chain: its folder, or its levels; neither: the one that ships, for the models it was fitted on."""

    chain: FolderOrFile | None = Field(None, description="Folder that `jethro cascade fit` wrote; null: see levels.")
    levels: tuple[LevelConfig, ...] | None = Field(None, description="The chain itself, weakest first.")

    @model_validator(mode="after")
    def _one_chain(self) -> Self:
        if self.chain is not None and self.levels is not None:
            raise ValueError("chain and levels contradict each other: keep one")
        if self.levels is not None and len(self.levels) < 2:
            raise ValueError("levels: a chain has at least two; add the pool that answers what the first does not")
        return self


class StreamingConfig(ChainConfig):
    """The streaming cascade: an answer is held for its first tokens only."""

    probe_tokens: PositiveInt | None = Field(None, description="Tokens that are held; null: as the chain was fitted.")
    race: RaceConfig | None = Field(None, description="Begin the next level at once where it is borderline; null: no.")


class CascadeConfig(ChainConfig):
    """`jethro-cascade` holds whole answers, `-stream` their first tokens, and `-route` may skip any pool."""

    streaming: StreamingConfig = StreamingConfig()
    routing: FolderOrFile | None = Field(
        None, description="Folder of a fitted cascade router; null: the one that ships."
    )
    skip_hopeless: bool = Field(
        True, description="Pass over a level where the router's score alone keeps every answer below the threshold."
    )
    min_remaining_s: NonNegativeFloat = Field(
        1.0, description="With an answer available, no further level is called with less time to the deadline."
    )


class MemberConfig(Node):
    """Answers of one pool, or of one of its adapters."""

    pool: str = Field(description="The pool that is called.")
    samples: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Answers that are drawn.")
    adapter: str | None = Field(None, description="One of the pool's adapters; null: its model alone.")


class RoundConfig(Node):
    """Members that are called at once."""

    calls: Annotated[tuple[MemberConfig, ...], Field(min_length=1)] = Field(description="The members.")
    stop_at: NonNegativeFloat = Field(
        0.0,
        description="No further round is called if the leading answer is right with at least this probability, or has "
        "this share of the votes where no agreement model was fitted; 0: none is, above 1: always.",
    )


def fusing_pool(fuser: str | None) -> str | None:
    """The NAME of a fuser written as pool:NAME; None for any other."""
    return fuser.removeprefix(_POOL) if fuser is not None and fuser.startswith(_POOL) else None


class EnsembleConfig(Node):
    """`jethro-ensemble`: several answers, and the best of them, or one fused from the best."""

    plan: FolderOrFile | None = Field(None, description="Folder of a fitted plan; null: see rounds.")
    rounds: tuple[RoundConfig, ...] | None = Field(None, description="The rounds themselves, none of them fitted.")
    select: Literal["vote", "ranker", "logprob", "last"] | None = Field(
        None,
        description="With rounds: what picks the answer: the votes, a ranker, the mean log-probability of its tokens, "
        "or its round, the last; null: the ranker if there is one, else the votes.",
    )
    normalizer: str | None = Field(None, description="With rounds: the form in which answers are compared; null: text.")
    ranker: FolderOrFile | None = Field(None, description="Folder of a ranker; null: the plan's.")
    ranker_timeout_ms: PositiveFloat = Field(2000.0, description="Without scores in this time the votes decide.")
    fuser: FolderOrFile | None = Field(
        None, description="Folder of a fuser, or pool:NAME, whose model fuses by prompt; null: the plan's."
    )
    fuse_top: Annotated[int, Field(ge=2, le=16)] | None = Field(
        None, description="Best answers that are fused; null: as the plan has it, or 3 with rounds and a fuser."
    )
    fuser_timeout_s: PositiveFloat = Field(
        20.0, description="Without a fused answer in this time the best is returned."
    )
    deadline_s: PositiveFloat | None = Field(
        None,
        description="After it the answer is picked among those that are there; null: the plan's, or no such limit.",
    )
    quorum: PositiveInt | None = Field(
        None, description="Answers that must be there before the deadline counts; null: the plan's, or 1."
    )

    @property
    def folders(self) -> dict[str, str]:
        """The folders that serving reads, by key; a fuser that is a pool is none."""
        named = {"plan": self.plan, "ranker": self.ranker, "fuser": None if self.fusing_pool else self.fuser}
        return {key: folder for key, folder in named.items() if folder is not None}

    @property
    def fusing_pool(self) -> str | None:
        """The pool that fuses by prompt, if the config names one."""
        return fusing_pool(self.fuser)

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if self.plan is not None and self.rounds is not None:
            raise ValueError("plan and rounds contradict each other: keep one")
        if self.rounds is not None and not self.rounds:
            raise ValueError("rounds: a plan has at least one; add one, or leave the key out")
        for name in ("select", "normalizer"):
            if self.rounds is None and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} belongs to rounds, and a fitted plan has its own: leave it out, or give rounds"
                )
        return self


class StreamsConfig(Node):
    """Named streams of classification queries, and the Learner."""

    enabled: bool = Field(False, description="Run a Learner and offer /v1/streams.")
    folder: FolderOrFile = Field(
        "var/streams", description="Where learned state is kept; relative to the working directory."
    )
    most: PositiveInt = Field(64, description="Most streams at once.")
    most_per_tenant: PositiveInt = Field(
        16, description="Most streams of one tenant; those created without a key count against `most` alone."
    )
    labels: PositiveInt = Field(100, description="Labels that a stream may have.")
    text_chars: PositiveInt = Field(20_000, description="Longest text that is classified.")
    queue: PositiveInt = Field(50_000, description="Events of a stream that wait in a Gateway for the Learner.")
    poll_s: PositiveFloat = Field(0.5, description="How often Gateways ask the Learner for new policies.")
    checkpoint_events: PositiveInt = Field(2000, description="Events after which the whole state is written.")
    num_cpus: NonNegativeFloat = Field(0.1, description="CPUs that Ray reserves for the Learner.")
