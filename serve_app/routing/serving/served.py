"""A router as it serves: the scorer that its placement asks for, warm, and the watch over its traffic."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from serve_app.config.tree import RoutingConfig
from serve_app.errors import ConfigError, JethroError
from serve_app.learning.encoder import encoder_at_hand
from serve_app.routing.base import Placement, Router
from serve_app.routing.estimate import EstimatingRouter
from serve_app.routing.registered import Elsewhere, Registered
from serve_app.routing.registry import Registry, load_router
from serve_app.routing.serving.batching import ScoringThread
from serve_app.routing.serving.estimating import AwaitedEstimates
from serve_app.routing.serving.scoring import AwaitedScorer, InlineScorer, Scorer, checked
from serve_app.routing.serving.watching import RouterWatch
from serve_app.types import Message, Query

_WARM_UP = Query((Message("user", "What is 12 + 30? Give the bare result."),))

HEAVY: Final[tuple[Placement, ...]] = ("scorer",)
_TOLD: Final = 12
"""Features that a logged decision shows, the largest: more would make the log ten times as large."""

_FIRST_S: Final = 60.0
"""How long the first query of a router waits that is warmed up by it: importing torch and loading an encoder."""

logger = logging.getLogger("jethro.routing")


class Remote(Protocol):
    """The Scorer, wherever it runs: routers by their source (a name or a folder) and version."""

    async def score(self, source: str, version: str, text: str) -> float:
        """The strong win rate of a text."""

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """What moved it."""

    def prepare(self, source: str, version: str) -> None:
        """Load a router there; waits, so it is for a thread. Raises ConfigError if it cannot be loaded there."""


@dataclass(frozen=True, slots=True)
class Served:
    """A registered router and what gives its scores; `source` is what it is loaded by again."""

    registered: Registered
    scorer: Scorer
    source: str
    watch: RouterWatch | None = None
    """None without calibration data: there is nothing to compare with."""
    estimates: AwaitedEstimates | None = None
    """None of routers that do not estimate pools one by one."""

    @property
    def name(self) -> str:
        """What callers and decisions call it."""
        return self.registered.name

    def at(self, threshold: float) -> "Served":
        """The same router, scorer and all, at another threshold."""
        if self.watch is not None:
            self.watch.aim(threshold)
        return replace(self, registered=replace(self.registered, threshold=threshold))


class Placing:
    """Loads routers and gives each the scorer of its placement. Those of the placements `there` go to `remote`."""

    def __init__(
        self,
        routing: RoutingConfig,
        registry: Registry,
        remote: Remote | None = None,
        there: Collection[Placement] = HEAVY,
    ) -> None:
        self._routing = routing
        self._registry = registry
        self._remote = remote
        self._there = there if remote is not None else ()
        self._thread = ScoringThread(routing.score_batch, partial(limit_torch_threads, routing.score_threads))

    def load(self, source: str, version: str | None = None, *, eager: bool = True) -> Served:
        """The router of a name or a folder, in a version or the current one, loaded and warmed up; takes its time.

        Without `eager` one that scores on the thread is warmed up by its first query, which waits for it: an encoder
        that nobody asks for takes neither memory nor a longer start. Raises ConfigError if it cannot be loaded or does
        not score.
        """
        try:
            source, found = self._found(source, version)
        except JethroError:
            raise
        except Exception as e:
            raise ConfigError(f"router {source} cannot be loaded ({e!r}); train and register it again") from e
        late = not eager and found.router.placement == "batched" and not isinstance(found.router, Elsewhere)
        if isinstance(found.router, Elsewhere) and self._remote is not None:
            self._remote.prepare(source, found.version)
        elif not late:
            limit_torch_threads(self._routing.score_threads)  # others are served meanwhile
            warm_up(found)
        return Served(found, self._scorer(found, source, late), source, watch_of(found), self._estimates(found))

    def close(self) -> None:
        """End the scoring thread."""
        self._thread.close()

    def _found(self, source: str, version: str | None) -> tuple[str, Registered]:
        if source in self._registry.names():
            return source, self._registry.load(source, version, elsewhere=self._there)
        folder = str(Path(source).absolute()) if Path(source).is_dir() else source
        return folder, load_router(folder, seed=self._routing.seed, elsewhere=self._there)

    def _estimates(self, found: Registered) -> AwaitedEstimates | None:
        router = found.router
        if not isinstance(router, EstimatingRouter):
            return None
        ask = partial(self._thread.estimate, router)
        return AwaitedEstimates(found.name, router.models_, ask, self._routing.score_timeout_ms / 1e3)

    def _scorer(self, found: Registered, source: str, late: bool) -> Scorer:
        router = found.router
        if router.placement == "inline":
            return InlineScorer(router, found.name)
        timeout_s, kept = self._routing.score_timeout_ms / 1e3, self._routing.score_cache
        if isinstance(router, Elsewhere) and self._remote is not None:
            far = _Far(self._remote, source, found.version)
            return AwaitedScorer(found.name, far.score, far.explain, timeout_s=timeout_s, kept=kept)
        ask, tell = partial(self._thread.score, router), partial(self._thread.explain, router)
        first_s = max(_FIRST_S, timeout_s) if late else None
        return AwaitedScorer(found.name, ask, tell, timeout_s=timeout_s, kept=kept, first_s=first_s)


class Explained(Mapping[str, float]):
    """Features that moved a score; the router is asked when somebody reads them. Empty if it cannot tell."""

    def __init__(self, router: Router, query: Query) -> None:
        self._asked: tuple[Router, Query] | None = (router, query)
        self._found: Mapping[str, float] = {}

    def __getitem__(self, name: str) -> float:
        return self._features()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features())

    def __len__(self) -> int:
        return len(self._features())

    def _features(self) -> Mapping[str, float]:
        if self._asked is not None:
            router, query = self._asked
            try:
                told = list(router.explain(query).items())[:_TOLD]
                self._found = {name: round(float(weight), 4) for name, weight in told}
            except Exception:
                logger.warning("router %s gave no explanation", router.name, exc_info=True)
            self._asked = None
        return self._found


@dataclass(frozen=True, slots=True)
class _Far:
    """One router of the Scorer."""

    remote: Remote
    source: str
    version: str

    async def score(self, query: Query) -> float:
        return await self.remote.score(self.source, self.version, query.text)

    async def explain(self, query: Query) -> Mapping[str, float]:
        return await self.remote.explain(self.source, self.version, query.text)


def watch_of(found: Registered) -> RouterWatch | None:
    """The watch over a router's traffic, as far as its artefact tells what to expect."""
    if found.calibration is None:
        return None
    encoder = encoder_at_hand(found.router.params.get("encoder"))
    vector = encoder.cached if encoder is not None else None
    return RouterWatch(found.version, found.calibration, found.threshold, found.inputs, vector)


def warm_up(found: Registered) -> None:
    """Score once, so that nobody's query waits for what is loaded late. Raises ConfigError if that fails."""
    try:
        checked(float(found.router.score((_WARM_UP,))[0]))
    except JethroError:
        raise
    except Exception as e:
        raise ConfigError(f"router {found.name} {found.version} does not score ({e!r}); train it again") from e


def limit_torch_threads(threads: int) -> None:
    """The calling thread's share of the cores, if torch is in use at all; other threads keep theirs."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
