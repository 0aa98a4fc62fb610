"""Settings of LoRA adapters: the registry, and what an engine keeps in memory of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from serve_app.config.base import FolderOrFile, Node

ADAPTER_NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
"""What an adapter may be called: callers write MODEL:NAME, and the registry has a folder of that name."""
AdapterName = Annotated[str, Field(pattern=f"^{ADAPTER_NAME}$")]


class AdaptersConfig(Node):
    """The registry of LoRA adapters, which Gateways and replicas look at, and what may enter it."""

    registry: FolderOrFile = Field(
        "var/adapters", description="Folder of registered adapters; relative to the working directory."
    )
    reload_s: NonNegativeFloat = Field(
        1.0, description="How often the registry is looked at; 0: only for a name that is not known yet."
    )
    max_rank: PositiveInt = Field(64, description="Highest rank of an adapter.")
    max_mib: PositiveInt = Field(512, description="Largest file of an adapter's weights, MiB.")
    sources: tuple[FolderOrFile, ...] = Field(
        ("var",), description="Folders from which `POST /v1/adapters` may take an adapter; the command line takes any."
    )
    managers: tuple[str, ...] = Field(
        (),
        description="Tenants that may change adapters by the API; without server.keys every caller may.",
    )


class AdapterCacheConfig(Node):
    """The adapters that one replica holds in memory. The least recently used one leaves first, never one in use."""

    max_loaded: PositiveInt = Field(16, description="Most adapters in memory.")
    memory_mib: PositiveInt = Field(512, description="Most memory of their weights together, MiB.")
    price_factor: NonNegativeFloat | None = Field(
        None,
        description="What a token costs with an adapter, as a multiple of the pool's price; null: 1 and the share of "
        "the adapter's weights in those of the model, which is what it computes more.",
    )
    pinned: tuple[AdapterName, ...] = Field(
        (), description="Loaded at the start and kept; `jethro adapter pin` pins further ones while it serves."
    )

    @field_validator("pinned")
    @classmethod
    def _once(cls, pinned: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(pinned)) < len(pinned):
            raise ValueError("name each pinned adapter once")
        return pinned

    @model_validator(mode="after")
    def _room(self) -> Self:
        if len(self.pinned) > self.max_loaded:
            raise ValueError(
                f"{len(self.pinned)} adapters are pinned and max_loaded is {self.max_loaded}: pin fewer, or raise it"
            )
        return self


class VllmAdaptersConfig(AdapterCacheConfig):
    """The same for vLLM, which reserves memory for adapters when it starts."""

    max_in_batch: PositiveInt = Field(4, description="Different adapters in one forward pass (vLLM's max_loras).")
    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        16, description="Highest rank that vLLM reserves memory for; adapters above are refused (max_lora_rank)."
    )

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.max_in_batch > self.max_loaded:
            raise ValueError(
                f"max_in_batch {self.max_in_batch} is above max_loaded {self.max_loaded}: lower it or raise that"
            )
        return self
