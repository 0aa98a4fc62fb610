"""Four pools of three places, every strategy over them, and random rules: what the tests of placement run."""

import random
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.cascade.serving.streaming import Race, StreamingCascade
from serve_app.config.orchestration import TaskConfig
from serve_app.config.strategies import StreamsConfig
from serve_app.config.tree import Config
from serve_app.decision.capacity import OverloadPolicy
from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.serving.best_route import BestOf, BestRouteStrategy
from serve_app.errors import JethroError, Overloaded, PoolUnavailable, UpstreamError
from serve_app.orchestration.server_tools import ServerTools
from serve_app.orchestration.strategy import Orchestration
from serve_app.orchestration.tasks import TaskTable
from serve_app.placement.policy import PlacementPolicy
from serve_app.pools.base import PoolLoad
from serve_app.routing.artefact import Registered
from serve_app.routing.serving.served import ServedRouter
from serve_app.routing.strategy import DirectStrategy, RouteStrategy
from serve_app.strategy import Strategy
from serve_app.streams.registry import LocalLearner, RegistryOptions
from serve_app.streams.service import Streams
from serve_app.types import Capabilities, Price, Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.api.fakes import LengthRouter, config
from tests.cascade.fakes import UNSURE, chain, engine
from tests.cascade.serving.test_routed import cascade as routed
from tests.ensemble.serving.fakes import ensemble, plan
from tests.ensemble.serving.test_best_route import Fitted, served
from tests.routing.test_multi_pool import FakeEstimates
from tests.streams.fakes import FakeCore

NAMES = ("small", "large", "cloud", "remote")
FAILURES: Mapping[str, type[JethroError] | None] = {
    "up": None,
    "down": PoolUnavailable,
    "full": Overloaded,
    "broken": UpstreamError,
}
STREAM = "jethro-stream-mood"


class RecordingPool(LocalPool):
    """Keeps what it is called with, before it fails or answers. `state`: a key of FAILURES; `load_` is reported."""

    def __init__(self, name: str, says: str, price: float) -> None:
        super().__init__(name, engine(says, name), Price(price, 10 * price))
        self._engine.capabilities = Capabilities(tools=True, max_context_tokens=4096)
        self.calls: list[Query] = []
        self.state = "up"
        self.load_ = PoolLoad(1, 0, 0, 8)

    def load(self) -> PoolLoad:
        return self.load_

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        self._note(query)
        async for frame in super().stream(query, call):
            yield frame

    async def complete(self, query: Query, call: Call) -> Answer:
        self._note(query)
        return await super().complete(query, call)

    def _note(self, query: Query) -> None:
        self.calls.append(query)
        if (error := FAILURES[self.state]) is not None:
            raise error(f"{self.name} is {self.state}")


def recording() -> dict[str, RecordingPool]:
    """Two pools that routers choose between, and two more."""
    says = {"small": UNSURE, "large": "joy", "cloud": "cloud says", "remote": "remote says"}
    return {name: RecordingPool(name, says[name], 10.0**i) for i, name in enumerate(NAMES)}


def tree(places: Mapping[str, str], **placement: Any) -> Config:
    """A config of those pools; `keys` go to server.keys."""
    keys = placement.pop("keys", ())
    pools = {
        name: {"model": f"m-{name}", "engine": {"kind": "transformers", "path": "lab:small"}, "place": places[name]}
        for name in NAMES
    }
    found = config().model_dump() | {"pools": pools, "placement": placement}
    found["server"]["keys"] = [{"env": "K", **key} for key in keys]
    found["routing"]["capacity"] = {"enabled": True}
    return Config.model_validate(found)


def strategies(pools: Mapping[str, Any], config_: Config) -> dict[str, Strategy]:
    """Every kind of strategy over the pools; `small` and `large` of those that choose between two."""
    router = ServedRouter(Registered(LengthRouter(), 0.5, "length", name="length"))  # type: ignore[arg-type]
    two = (pools["small"], pools["large"])

    async def prior(name: str, query: Query) -> float:
        return 0.5

    race = Race("length", 0.0, 1.0, 1.0)
    race.meter.all_tokens = 1e6
    streaming = StreamingCascade("cascade-stream", chain(probe_tokens=2), pools, prior, race=race)
    fused = ensemble(dict(pools), plan(NAMES, fuse_top=2), fuse_pool="large")
    from serve_app.routing.multi_pool import MultiPoolStrategy, Utility

    estimates = FakeEstimates({"small": 0.3, "cloud": 0.5, "large": 0.7, "remote": 0.99})
    best = BestRouteStrategy("route", served(Fitted()), 0.4, pools, BestOf())
    return {
        "route": RouteStrategy("route", router, 0.5, two, overload=OverloadPolicy.from_config(config_)),
        "route-all": MultiPoolStrategy("route-all", estimates, Utility(1.0), pools),  # type: ignore[arg-type]
        "cascade": CascadeStrategy("cascade", chain(levels=NAMES), pools),
        "cascade-stream": streaming,
        "cascade-route": routed(dict(pools))[0],
        "ensemble": ensemble(dict(pools), plan(NAMES)),
        "ensemble-rounds": ensemble(dict(pools), plan(("small",), ("cloud", "large"), ("remote",), stop_at=0.9)),
        "ensemble-fused": fused,
        "best-of": best,
        "orchestrate": _orchestrated(pools, config_),
        **{f"direct-{name}": DirectStrategy(pools[name]) for name in NAMES},
    }


def _orchestrated(pools: Mapping[str, Any], config_: Config) -> Orchestration:
    """Tasks by hint, and all else; a task's rules hold too."""
    tiers = [{"pool": name} for name in NAMES]
    backwards = TaskConfig.model_validate({"tiers": tiers[::-1]})
    table = TaskTable({"chat": backwards, "sort": backwards}, TaskConfig.model_validate({"tiers": tiers}))
    narrow = PlacementPolicy(config_).narrowed
    return Orchestration("orchestrate", chain(), pools, table=table, tools=ServerTools({}, 4, 2), narrow=narrow)


COMPETES = {
    **dict.fromkeys(("route", "cascade-stream", "cascade-route", "best-of"), ("small", "large")),
    **{f"direct-{name}": (name,) for name in NAMES},
}
"""The pools that a strategy may answer with, if not all."""


def streams(pools: Mapping[str, Any], folder: Path, coin: float = 0.5) -> tuple[LocalLearner, Streams]:
    """A Learner and a Gateway's side of the streams over the pools."""
    learner = LocalLearner(RegistryOptions(folder), FakeCore())
    options = StreamsConfig(poll_s=0.02, folder=str(folder))
    return learner, Streams(learner, pools, options, f"g{random.random()}", FakeCore(), lambda: coin)


CLASSES = st.sampled_from(["local", "private", "any"])
PLACES = st.sampled_from(["local", "private", "public"])
RULES = st.fixed_dictionaries(
    {"places": st.lists(PLACES, max_size=3, unique=True), "pools": st.lists(st.sampled_from(NAMES), max_size=2)},
    optional={
        "tenants": st.lists(st.sampled_from(["acme", "zeta"]), max_size=2, unique=True),
        "classes": st.lists(CLASSES, max_size=2, unique=True),
        "detected": st.lists(st.sampled_from(["email", "phone", "card"]), min_size=1, max_size=2, unique=True),
        "tasks": st.lists(st.sampled_from(["sort", "chat"]), min_size=1, max_size=2, unique=True),
    },
)
TEXTS = st.sampled_from(
    [
        "what?",
        "write to jane.doe@example.com about it",
        "call +44 20 7946 0958 today",
        "a long question " * 12,
        "card 4111 1111 1111 1111, joy",
    ]
)
