"""Settings of cascades, which serve fitted chains, and of named streams that are learned online."""

from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from serve_app.config.base import FolderOrFile, Node

Share = Annotated[float, Field(ge=0, le=1)]


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
