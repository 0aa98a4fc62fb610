"""Settings of a pool: its engine, price, replicas and what Ray reserves for each of them."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from serve_app.config.base import ModelName, Node
from serve_app.config.cluster import ResourceDemand
from serve_app.config.engines import EncoderSettings, EngineConfig, OpenAISettings, TransformersSettings, VllmSettings
from serve_app.types import Place


class ReplicasConfig(Node):
    """Replicas between bounds; `replicas: 2` means exactly two.

    `share` follows the calls that the Gateways' decisions request, ahead of the queue; `in_flight` follows the requests
    in its replicas.
    """

    min: Annotated[int, Field(ge=0)] = Field(1, description="0: an idle pool sleeps, and the first query wakes it.")
    max: PositiveInt = Field(1, description="Most replicas.")
    policy: Literal["share", "in_flight"] = Field("share", description="What the number of replicas follows.")
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

    num_cpus: NonNegativeFloat = Field(0.4, description="CPUs.")
    num_gpus: NonNegativeFloat = Field(0.0, description="GPUs; a fraction shares one.")
    accelerator_type: str | None = Field(None, description="As Ray names it, for instance L4 or H100; null: any.")
    memory_gib: PositiveFloat | None = Field(None, description="Memory; null: not reserved.")

    def demand(self, key: str, replicas: int) -> ResourceDemand:
        """These reservations for `replicas` replicas; `key` names them in messages."""
        return ResourceDemand(
            key, self.num_cpus, self.num_gpus, self.memory_gib or 0.0, self.accelerator_type, replicas
        )


class PriceConfig(Node):
    """US dollars for a million tokens; for your own GPUs, what an hour costs by what an hour writes."""

    input_usd_per_million: NonNegativeFloat = Field(0.0, description="Prompt tokens.")
    output_usd_per_million: NonNegativeFloat = Field(0.0, description="Completion tokens.")


class PoolConfig(Node):
    """Engines of one kind."""

    model: ModelName = Field(description="The id that callers see and may request.")
    engine: EngineConfig
    price: PriceConfig = PriceConfig()
    replicas: ReplicasConfig = ReplicasConfig(min=1, max=1)
    resources: ResourcesConfig = ResourcesConfig()
    max_ongoing_requests: PositiveInt = Field(64, description="Requests open at once in one replica.")
    max_queued_requests: Annotated[int, Field(ge=0)] = Field(256, description="Waiting in one replica; then 429.")
    drain_s: PositiveFloat = Field(30.0, description="Longest wait for open requests when a replica stops.")
    wait_s: NonNegativeFloat = Field(10.0, description="How long a request waits for a replica when there is none.")
    required: bool | None = Field(
        None,
        description="true: not ready while no replica of this pool answers; false: ready without it; null: ready, but "
        "degraded, while another pool answers every routed query in its place.",
    )

    place: Place | None = Field(
        None,
        description="Who runs it: local (this cluster), private (machines of ours) or public (another party); decides "
        "which privacy classes may reach it. null: public for engine.kind openai, else local.",
    )

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

    def device_error(self, key: str) -> str | None:
        """A mismatch of the engine's device and the GPUs that Ray reserves, with the fix; `key`: this pool's path."""
        engine, gpus = self.engine, self.resources.num_gpus
        if isinstance(engine, TransformersSettings):
            if engine.device.startswith("cuda") and not gpus:
                return (
                    f"{key}.engine.device is {engine.device} and {key}.resources.num_gpus is 0, so that Ray hides "
                    "every GPU from the replica: set num_gpus: 1, or device: cpu"
                )
            if engine.device == "cpu" and gpus:
                return (
                    f"{key}.resources.num_gpus is {gpus:g} and {key}.engine.device is cpu: set device: cuda, or 0 GPUs"
                )
        if isinstance(engine, VllmSettings) and gpus and engine.tensor_parallel > math.ceil(gpus):
            return (
                f"{key}.engine.tensor_parallel {engine.tensor_parallel} needs as many GPUs and "
                f"{key}.resources.num_gpus is {gpus:g}: set num_gpus: {engine.tensor_parallel}"
            )
        return None

    @property
    def located(self) -> Place:
        """Who runs it."""
        return self.place or ("public" if self.remote else "local")

    @property
    def embedded(self) -> bool:
        """Whether its model is one of those that ship, which know their own tasks alone."""
        return getattr(self.engine, "path", "").startswith("lab:")

    @property
    def embeds(self) -> bool:
        """Whether its model embeds texts; such a pool serves /v1/embeddings alone, and no query is routed there."""
        return isinstance(self.engine, EncoderSettings) or getattr(self.engine, "embeddings", False)

    @property
    def remote(self) -> bool:
        """Whether the pool is fixed addresses run by another party."""
        return isinstance(self.engine, OpenAISettings)
