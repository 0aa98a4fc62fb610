"""Follows the registry while the endpoint serves: a new version is loaded next to the old one, then swapped in.

Also reports the routers in service, to operators and to Prometheus.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from serve_app.errors import JethroError, NotFound
from serve_app.gateway.catalogue import Catalogue
from serve_app.observability.scraped import RouterFigures
from serve_app.routing.serving.loading import Loader, RouterSet
from serve_app.routing.serving.served import ServedRouter
from serve_app.routing.thresholds import RouterThreshold

_DIGEST_S: Final = 1.0
"""How often live traffic is compared with the calibration data where the registry is not followed."""
_RETRY_S: Final = 30.0
"""A rejected version is tried again this often: what it lacked, such as a Scorer, may be available by then."""

logger = logging.getLogger("jethro.gateway")


class Reloader:
    """Checks the registry every `every_s` seconds (0: never). Loads in a thread, while requests are served."""

    def __init__(
        self, loader: Loader, catalogue: Catalogue, every_s: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loader = loader
        self._catalogue = catalogue
        self._every_s = every_s
        self._clock = clock
        self._seen: tuple[str, ...] | None = None
        self._looking = asyncio.Lock()
        self._retry_s = float("inf")
        self._following: asyncio.Task[None] | None = None
        self._last_error = ""
        self.swaps: Counter[str] = Counter()
        """By router: versions or thresholds taken into service since the start."""
        self.refusals: Counter[str] = Counter(catalogue.routers.refused.keys())
        """By router: versions rejected."""

    def start(self) -> None:
        """Follow from now on."""
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def aclose(self) -> None:
        """Stop, and close the scorers."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await asyncio.to_thread(self._loader.close)

    async def look(self) -> bool:
        """Load and swap in what has changed; returns whether anything has."""
        async with self._looking:  # a change through the API is looked at right away
            return await self._look()

    async def _look(self) -> bool:
        seen = await asyncio.to_thread(self._loader.fingerprint)
        if seen == self._seen and self._clock() < self._retry_s:
            return False
        before = self._catalogue.routers
        after = await asyncio.to_thread(self._loader.load, before)
        self._seen = seen
        self._retry_s = self._clock() + _RETRY_S if after.refused else float("inf")
        self.refusals.update(after.refused.keys())
        if _same(before, after):
            if before.refused != after.refused:
                self._catalogue.swap(after)  # to report it; the routers in service are the same
            return False
        self._catalogue.swap(after)
        self._log_changes(before, after)
        return True

    def router(self, name: str) -> ServedRouter:
        """A router in service. Raises NotFound naming those there are."""
        routers = self._catalogue.routers.routers
        if name not in routers:
            raise NotFound(
                f"No router {name[:64]!r} is in service: there are {', '.join(routers)}. Thresholds of cascades and "
                "streams are fitted, and not changed here.",
                param="name",
            )
        return routers[name]

    def kept_threshold(self, name: str) -> RouterThreshold:
        """The threshold of a router in service, to be changed; call it in a thread. Raises NotFound, Conflict."""
        served = self.router(name)
        return self._loader.kept_threshold(served, default=name == self._catalogue.routers.default)

    def figures(self) -> list[RouterFigures]:
        """All routers, by name."""
        routers = self._catalogue.routers
        return [self._figures(routers, served) for served in routers.routers.values()]

    def observe_feedback(self, record: Mapping[str, Any], score: float) -> None:
        """Compare the feedback on a stored decision with the quality that was expected of its pool.

        Skips decisions of versions no longer in service, and pools without an expected quality.
        """
        served = self._catalogue.routers.routers.get(str(record.get("router")))
        expected = (record.get("expected") or {}).get(record.get("pool"), {}).get("quality")
        if served is None or served.watch is None or expected is None:
            return
        if str(record.get("policy_version")).partition("@")[0] == served.version:
            served.watch.feedback(str(record["pool"]), float(expected), score)

    def digest(self) -> None:
        """Update the drift statistics; call it in a thread."""
        for served in self._catalogue.routers.routers.values():
            if served.watch is not None:
                served.watch.digest()

    def _figures(self, routers: RouterSet, served: ServedRouter) -> RouterFigures:
        default, loaded = served.name == routers.default, served.registered.loaded
        models = served.registered.models
        share, expected_share = served.watch.shares() if served.watch is not None else (None, None)
        return RouterFigures(
            name=served.name,
            kind=loaded.name,
            version=served.version,
            threshold=routers.threshold if default else served.threshold,
            placement=loaded.placement,
            default=default,
            swaps=self.swaps[served.name],
            refusals=self.refusals[served.name],
            refused=routers.refused.get(served.name),
            drift=served.watch.state() if served.watch is not None else {},
            models=None if models is None else dict(zip(("weak", "strong"), models, strict=True)),
            warning=routers.default_note if default else routers.notes.get(served.name),
            share=share,
            expected_share=expected_share,
        )

    async def _follow(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.digest)
                if self._every_s > 0:
                    await self.look()
                self._last_error = ""
            except Exception as e:
                if repr(e) != self._last_error:  # once, however often it is repeated
                    trace = None if isinstance(e, JethroError) else e
                    logger.error("the registry cannot be followed: %s", e, exc_info=trace)
                    self._last_error = repr(e)
            await asyncio.sleep(self._every_s or _DIGEST_S)

    def _log_changes(self, before: RouterSet, after: RouterSet) -> None:
        for name, served in after.routers.items():
            was = before.routers.get(name)
            if was is not served:
                self.swaps[name] += 1
                old = was.version if was is not None else "nothing"
                logger.warning("router %s: %s replaces %s, threshold %.6g", name, served.version, old, served.threshold)
        for name in before.routers.keys() - after.routers.keys():
            logger.warning("router %s is no longer in service", name)
        if before.default != after.default:
            logger.warning("the default router is now %s instead of %s", after.default, before.default)


def _same(before: RouterSet, after: RouterSet) -> bool:
    return (
        before.routers.keys() == after.routers.keys()
        and all(before.routers[name] is served for name, served in after.routers.items())
        and (before.default, before.threshold, before.default_note)
        == (after.default, after.threshold, after.default_note)
    )
