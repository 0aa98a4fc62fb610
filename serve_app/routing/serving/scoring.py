"""How a query gets its score while others are served: at once, from a thread that batches, or from far away.

A score that does not come, in time or at all, is a ScoringFailed; the strategy then asks the strong pool, as RouteLLM
does with a score that cannot be read. No caller waits longer than the time limit, and nobody's request is lost.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from time import monotonic
from typing import Final, Protocol

from serve_app.routing.base import Router
from serve_app.types import Query

logger = logging.getLogger("jethro.routing")

_COMPLAIN_S: Final = 30.0
"""A router that fails at every query is told of this often, not at every query."""
_LATE_IN_A_ROW: Final = 5
_REST_S: Final = 2.0
"""After so many scores in a row that did not come in time nobody is asked for a while: callers need not wait for what
will not come, and what is overloaded can catch up."""


class ScoringFailed(Exception):
    """There is no score; the text says why in a few words that may stand in a Decision's reason."""


class Scorer(Protocol):
    """Strong win rates of single queries, in one version of one router."""

    name: str
    """The router, as callers and decisions call it."""

    async def score(self, query: Query) -> float:
        """The strong win rate, in [0, 1]. Raises ScoringFailed."""

    async def explain(self, query: Query) -> Mapping[str, float]:
        """What moved the score, see Router.explain; never on the event loop's time if it is slow. Empty on failure."""


class InlineScorer:
    """Scores on the event loop, with no hop to a thread: for routers that take microseconds."""

    def __init__(self, router: Router, name: str = "") -> None:
        self.name = name or router.name
        self._router = router
        self._complaints = Complaints(self.name)

    async def score(self, query: Query) -> float:
        """See Scorer; never waits."""
        try:
            return checked(float(self._router.score((query,))[0]))
        except Exception as e:
            raise self._complaints.failure(e) from e

    async def explain(self, query: Query) -> Mapping[str, float]:
        """See Scorer."""
        try:
            return self._router.explain(query)
        except Exception as e:
            self._complaints.failure(e)
            return {}


class AwaitedScorer:
    """Scores that are computed elsewhere: asked for with a time limit, and kept by the hash of the text.

    `ask` and `tell` compute score and explanation. `kept` scores are remembered, 100 bytes each. After several scores
    in a row that came too late it is not asked for a while. `first_s` is the limit until the first score has come, for
    a router that is loaded when it is first asked.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Query], Awaitable[float]],
        tell: Callable[[Query], Awaitable[Mapping[str, float]]],
        *,
        timeout_s: float,
        kept: int,
        first_s: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._ask, self._tell = ask, tell
        self._usual_s = timeout_s
        self._timeout_s = timeout_s if first_s is None else first_s
        self._most = kept
        self._kept: OrderedDict[bytes, float] = OrderedDict()
        self._clock = clock
        self._late = 0
        self._resting_until_s = float("-inf")
        self._complaints = Complaints(name)

    async def score(self, query: Query) -> float:
        """See Scorer."""
        key = blake2b(query.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        if self._clock() < self._resting_until_s:
            raise ScoringFailed("no score in time, many times before")
        try:
            async with asyncio.timeout(self._timeout_s):
                score = checked(float(await self._ask(query)))
        except Exception as e:
            self._note_late(isinstance(e, TimeoutError))
            raise self._complaints.failure(e) from e
        self._late = 0
        self._timeout_s = self._usual_s
        self._keep(key, score)
        return score

    async def explain(self, query: Query) -> Mapping[str, float]:
        """See Scorer; as long as it takes, up to ten times the limit of a score."""
        try:
            async with asyncio.timeout(10 * self._timeout_s):
                return await self._tell(query)
        except Exception as e:
            self._complaints.failure(e)
            return {}

    def _note_late(self, late: bool) -> None:
        self._late = self._late + 1 if late else 0
        if self._late >= _LATE_IN_A_ROW:
            # one more that is late after the rest starts the next rest
            self._late = _LATE_IN_A_ROW - 1
            self._resting_until_s = self._clock() + _REST_S

    def _keep(self, key: bytes, score: float) -> None:
        self._kept[key] = score
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


class Complaints:
    """Turns whatever went wrong into a ScoringFailed, and logs it, now and then."""

    def __init__(self, name: str, clock: Callable[[], float] = monotonic) -> None:
        self._name = name
        self._clock = clock
        self._last_s = float("-inf")
        self._silent = 0

    def failure(self, error: Exception) -> ScoringFailed:
        """The failure to raise."""
        now = self._clock()
        if now - self._last_s >= _COMPLAIN_S:
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


def checked(score: float) -> float:
    """The score. Raises ScoringFailed unless it is in [0, 1]."""
    if not 0.0 <= score <= 1.0:
        raise ScoringFailed(f"score {score:g} is not in [0, 1]")
    return score
