"""A decision without calling a model: the configured router over pools that are only described by their config."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.config import Config
from serve_app.errors import PoolUnavailable
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.scope import ScopeNotes
from serve_app.pools.base import PoolLoad
from serve_app.pools.factory import capabilities
from serve_app.types import Capabilities, Message, Price, Query
from serve_app.wire.frames import Answer, Call, Frame


@dataclass(slots=True)
class DescribedPool:
    """A pool that a router can choose but that never answers: it has no engine."""

    name: str
    model: str
    price: Price
    capabilities: Capabilities

    def load(self) -> PoolLoad:
        """No replicas."""
        return PoolLoad(replicas=0, in_flight=0)

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """Raises PoolUnavailable."""
        raise PoolUnavailable(f"pool {self.name} has no engine here: start the endpoint with `jethro serve`")

    async def complete(self, query: Query, call: Call) -> Answer:
        """Raises PoolUnavailable."""
        raise PoolUnavailable(f"pool {self.name} has no engine here: start the endpoint with `jethro serve`")

    async def aclose(self) -> None:
        """Nothing to close."""


def described(config: Config) -> dict[str, DescribedPool]:
    """The config's pools, as far as it describes them."""
    prices = {
        n: Price(p.price.input_usd_per_million, p.price.output_usd_per_million) for n, p in config.chat_pools.items()
    }
    return {n: DescribedPool(n, p.model, prices[n], capabilities(p)) for n, p in config.chat_pools.items()}


def decide(config: Config, model: str, question: str) -> dict[str, Any]:
    """The decision on a one-message query, as JSON-ready values.

    Raises ModelNotFound for an unknown `model`, ConfigError if the router cannot be loaded.
    """
    named = model.split("-")[1:2] if model.startswith("router-") else []
    routing = config.routing.model_copy(update={"offered": tuple(named)})  # no other router need be loaded
    config = config.model_copy(update={"routing": routing})
    strategy, query = (
        Catalogue.from_config(config, described(config)).resolve(model),
        Query((Message("user", question),)),
    )
    decision = asyncio.run(strategy.decide(query, "local"))
    return asdict(ScopeNotes.from_config(config).noted(model, query, decision))
