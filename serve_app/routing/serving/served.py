"""A router in service: one version at one threshold, its scores under a time limit, the watch over its traffic.

A score that is late or fails raises ScoringFailed; the strategy then calls the strong pool, as RouteLLM does with a
score that it cannot parse. No caller waits longer than the time limit.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from hashlib import blake2b
from time import monotonic
from typing import Any, Final

from serve_app.learning.encoder import loaded_encoder
from serve_app.routing.artefact import Registered
from serve_app.routing.base import Router
from serve_app.routing.estimate import Estimate, EstimatingRouter
from serve_app.routing.kinds.best_route import SampledEstimate
from serve_app.routing.serving.batching import Act
from serve_app.routing.serving.cooldown import Cooldown
from serve_app.routing.serving.watching import RouterWatch
from serve_app.types import Query

logger = logging.getLogger("jethro.routing")

Call = Callable[[Query, Act], Awaitable[Any]]
"""Computes a score, an estimate, or an explanation of a query outside of the event loop."""

_WARN_EVERY_S: Final = 30.0
"""A router that fails at every query is logged this often, not at every query."""
_COOLDOWN_S: Final = 2.0
"""Of a router with consecutive late scores."""
_LOGGED: Final = 12
"""Features that a logged decision shows, the largest: more would make the log ten times as large."""


class ScoringFailed(Exception):
    """There is no score; the text is a few words for a Decision's reason."""


@dataclass(eq=False)
class ServedRouter:
    """One router version at one threshold. `source` is the name or folder that it is loaded by.

    Without `call` it scores inline, in the event loop, with no hop to a thread: for routers that take microseconds.
    With it, scores have a limit of `timeout_s` (`first_s` until the first one, for a router that loads on first use)
    and `kept` of them are remembered by the hash of the text, 100 bytes each.
    """

    registered: Registered
    source: str = ""
    call: Call | None = None
    _: KW_ONLY
    timeout_s: float = 1.0
    kept: int = 0
    first_s: float | None = None
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        self.name, self.version = self.registered.name, self.registered.version
        self.watch = _watch(self.registered)
        """None without calibration data: there is nothing to compare with."""
        self._limit_s = self.timeout_s if self.first_s is None else self.first_s
        self._kept: OrderedDict[bytes, float] = OrderedDict()
        self._cooldown = Cooldown(_COOLDOWN_S, self.clock)
        self._warning = ThrottledWarning(self.name)

    @property
    def threshold(self) -> float:
        """The query goes to the strong pool from this score on, unless the caller or the config sets another."""
        return self.registered.threshold

    @property
    def estimated_models(self) -> Mapping[str, str]:
        """Model ids by pool that `estimate` covers; empty for a router that does not estimate pools one by one."""
        router = self.registered.loaded
        return router.models_ if isinstance(router, EstimatingRouter) else {}

    def at(self, threshold: float) -> "ServedRouter":
        """The same router at another threshold, with the same remembered scores and watch."""
        if self.watch is not None:
            self.watch.set_threshold(threshold)
        found = copy(self)
        found.registered = replace(self.registered, threshold=threshold)
        return found

    async def score(self, query: Query) -> float:
        """The strong win rate, in [0, 1]. Raises ScoringFailed."""
        if self.call is not None:
            return await self._awaited(query, self.call)
        try:
            return checked(float(self.registered.router.score((query,))[0]))
        except Exception as e:
            raise self._warning.failure(e) from e

    async def explain(self, query: Query) -> Mapping[str, float]:
        """Feature contributions to the score, see Router.explain; empty on failure.

        Takes up to ten times the limit of a score.
        """
        try:
            if self.call is None:
                return self.registered.router.explain(query)
            async with asyncio.timeout(10 * self._limit_s):
                found: Mapping[str, float] = await self.call(query, "explain")
                return found
        except Exception as e:
            self._warning.failure(e)
            return {}

    async def estimate(self, query: Query) -> Estimate:
        """Estimates of each pool, arrays of shape [1, p]; only where there are `estimated_models`.

        Raises ScoringFailed.
        """
        try:
            assert self.call is not None
            async with asyncio.timeout(self.timeout_s):
                found: Estimate = await self.call(query, "estimate")
                return found
        except Exception as e:
            raise self._warning.failure(e) from e

    async def sampled_estimates(self, query: Query) -> list[SampledEstimate]:
        """What is expected of each pool with each number of answers; only of BEST-Route, in this process.

        Raises ScoringFailed.
        """
        try:
            assert self.call is not None
            async with asyncio.timeout(self._limit_s):
                found: list[SampledEstimate] = await self.call(query, "sampled")
        except Exception as e:
            raise self._warning.failure(e) from e
        self._limit_s = self.timeout_s
        return found

    def logged_features(self, query: Query) -> Mapping[str, float]:
        """The largest feature contributions, computed when they are read; empty where the Scorer has the weights."""
        router = self.registered.loaded
        return {} if isinstance(router, type) else LazyFeatures(router, query)

    async def _awaited(self, query: Query, call: Call) -> float:
        key = blake2b(query.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        if self._cooldown.is_active():
            raise ScoringFailed("no score in time, many times before")
        try:
            async with asyncio.timeout(self._limit_s):
                score = checked(float(await call(query, "score")))
        except Exception as e:
            if isinstance(e, TimeoutError):
                self._cooldown.failed()
            else:
                self._cooldown.succeeded()
            raise self._warning.failure(e) from e
        self._cooldown.succeeded()
        self._limit_s = self.timeout_s
        if query.stays_unrecorded:
            return score
        self._kept[key] = score
        if len(self._kept) > self.kept:
            self._kept.popitem(last=False)
        return score


class ThrottledWarning:
    """Turns any error into a ScoringFailed, and logs one in a while."""

    def __init__(self, name: str, clock: Callable[[], float] = monotonic) -> None:
        self._name = name
        self._clock = clock
        self._last_s = float("-inf")
        self._silent = 0

    def failure(self, error: Exception) -> ScoringFailed:
        """The failure to raise."""
        now = self._clock()
        if now - self._last_s >= _WARN_EVERY_S:
            logger.warning(
                "router %s gave no score, %d times more since the last such line: the strong pool answers",
                self._name,
                self._silent,
                exc_info=error,
            )
            self._last_s, self._silent = now, 0
        else:
            self._silent += 1
        if isinstance(error, TimeoutError):
            return ScoringFailed("no score in time")
        return ScoringFailed(str(error) if isinstance(error, ScoringFailed) else f"{type(error).__name__}")


class LazyFeatures(Mapping[str, float]):
    """Feature contributions that the router computes on first read; empty if it fails to."""

    def __init__(self, router: Router, query: Query) -> None:
        self._pending: tuple[Router, Query] | None = (router, query)
        self._found: Mapping[str, float] = {}

    def __getitem__(self, name: str) -> float:
        return self._features()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features())

    def __len__(self) -> int:
        return len(self._features())

    def _features(self) -> Mapping[str, float]:
        if self._pending is not None:
            router, query = self._pending
            try:
                largest = list(router.explain(query).items())[:_LOGGED]
                self._found = {name: round(float(weight), 4) for name, weight in largest}
            except Exception:
                logger.warning("router %s gave no explanation", router.name, exc_info=True)
            self._pending = None
        return self._found


def checked(score: float) -> float:
    """The score. Raises ScoringFailed unless it is in [0, 1]."""
    if not 0.0 <= score <= 1.0:
        raise ScoringFailed(f"score {score:g} is not in [0, 1]")
    return score


def _watch(registered: Registered) -> RouterWatch | None:
    """The watch over a router's traffic, as far as its artefact says what to expect."""
    if registered.calibration is None:
        return None
    encoder = None if registered.remote else loaded_encoder(registered.router.params.get("encoder"))
    vector = encoder.cached if encoder is not None else None
    return RouterWatch(registered.version, registered.calibration, registered.threshold, registered.inputs, vector)
