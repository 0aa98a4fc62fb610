"""Settings of named streams that are learned online."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from serve_app.config.base import Node


class StreamsConfig(Node):
    """Named streams of classification queries, and the Learner that learns them."""

    enabled: bool = Field(False, description="Run a Learner and offer /v1/streams.")
    folder: str = Field("var/streams", description="Where learned state is kept; relative to the working directory.")
    most: PositiveInt = Field(64, description="Streams that there may be at once.")
    most_per_tenant: PositiveInt = Field(
        16, description="Streams that one tenant may have; those made without a key count against `most` alone."
    )
    labels: PositiveInt = Field(100, description="Labels that a stream may have.")
    text_chars: PositiveInt = Field(20_000, description="Longest text that is classified.")
    queue: PositiveInt = Field(50_000, description="Events of a stream that wait in a Gateway for the Learner.")
    poll_s: PositiveFloat = Field(0.5, description="How often Gateways ask the Learner for new policies.")
    checkpoint_events: PositiveInt = Field(2000, description="Events after which the whole state is written.")
    num_cpus: NonNegativeFloat = Field(0.1, description="CPUs that Ray reserves for the Learner.")
