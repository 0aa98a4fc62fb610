"""An operator's changes of a router's threshold: written to the registry, in force here at once, elsewhere soon.

Every Gateway follows the registry every `routing.reload_s` seconds; the one that took the request does not wait.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from serve_app.config.tree import Config
from serve_app.errors import ConfigError, Conflict, JethroError
from serve_app.gateway.reload import Reloader
from serve_app.routing.thresholds import NothingToUndo, RouterThreshold, ThresholdChange, read_history

logger = logging.getLogger("jethro.gateway")

_SHOWN: Final = 50
"""Changes of the history that are shown, the latest first."""


class ThresholdControl:
    """Reads and changes thresholds of the routers in service."""

    def __init__(self, config: Config, routers: Reloader) -> None:
        self._config = config
        self._routers = routers

    async def state(self, name: str) -> dict[str, Any]:
        """The threshold in force, where it comes from, and its history. Raises NotFound."""
        figures = next((f for f in self._routers.figures() if f.name == name), None)
        if figures is None:
            self._routers.router(name)  # raises NotFound
        assert figures is not None
        about = {"id": name, "object": "router.threshold", "version": figures.version, "default": figures.default}
        return {**about, "threshold": figures.threshold, **await asyncio.to_thread(self._kept, name)}

    async def set(self, name: str, threshold: float, by: str) -> ThresholdChange:
        """Serve a router at this threshold. Raises NotFound, Conflict if it cannot be changed here."""
        return await self._change(name, lambda kept: kept.set(threshold, by))

    async def undo(self, name: str, by: str) -> ThresholdChange:
        """Take the last change back. Raises NotFound, Conflict if there is none."""
        return await self._change(name, lambda kept: kept.undo(by))

    async def _change(self, name: str, change: Callable[[RouterThreshold], ThresholdChange]) -> ThresholdChange:
        self._check(name)
        done = await asyncio.to_thread(self._changed, name, change)
        span = (done.before, done.after)
        logger.warning("router %s: %s by %s: threshold %.6g is now %.6g", name, done.action, done.by, *span)
        try:
            await self._routers.look()
        except (JethroError, OSError) as e:  # it is written, and Gateways that follow the registry try again
            logger.error("the change of router %s is not in force here yet: %s", name, e)
        return done

    def _check(self, name: str) -> None:
        self._routers.router(name)
        if self._config.small_only:
            raise Conflict("This endpoint has the small model alone (small_only): no threshold decides anything.")
        if self._config.routing.reload_s == 0 and self._config.gateway.replicas > 1:
            raise Conflict(
                "routing.reload_s is 0: the other Gateways would not follow the change. Set it to 1 and restart.",
                code="registry_not_followed",
            )

    def _changed(self, name: str, change: Callable[[RouterThreshold], ThresholdChange]) -> ThresholdChange:
        """In a thread: files are read and written. Raises NotFound, Conflict."""
        try:
            return change(self._routers.kept_threshold(name))
        except NothingToUndo as e:
            raise Conflict(f"Router {name}: {e}.", code="nothing_to_undo") from e
        except ConfigError as e:
            raise Conflict(f"The threshold of {name} cannot be changed: {e}.", code="registry_unusable") from e
        except OSError as e:
            raise Conflict(
                f"The registry {self._config.routing.registry} cannot be written ({e.strerror or e}): make "
                "routing.registry a folder that the endpoint may write.",
                code="registry_unusable",
            ) from e

    def _kept(self, name: str) -> dict[str, Any]:
        """What the registry says; `refused` holds why it cannot be changed here, or None."""
        try:
            self._check(name)
            kept = self._routers.kept_threshold(name)
        except JethroError as e:
            return {"own_threshold": None, "rule": None, "refused": str(e), "history": [], "history_damaged": 0}
        found = read_history(kept.folder)
        latest = [change.to_json() for change in reversed(found.changes[-_SHOWN:])]
        history = {"history": latest, "history_damaged": found.damaged}
        return {"own_threshold": kept.own, "rule": kept.rule, "refused": None, **history}
