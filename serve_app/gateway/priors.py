"""The routers whose scores cascades read: each in the version that the cascade was fitted with, whichever serves.

A calibrated signal means what it meant at the fit only if the same router makes it. So a reference with a version
(`NAME@VERSION`, see `routing.reference`) is resolved once, at the start, and no swap of routers replaces it. A name
alone, in artefacts of earlier versions and in levels that a config spells out, means the version that serves.
"""

import logging
from collections.abc import Callable, Mapping

from serve_app.errors import ConfigError
from serve_app.routing.artefact import Registered
from serve_app.routing.reference import split_reference
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.types import Query

logger = logging.getLogger("jethro.gateway")


class PriorRouters:
    """Scores of referenced routers. `serving` returns those in service by name; `load` finds others, in seconds."""

    def __init__(
        self,
        serving: Callable[[], Mapping[str, ServedRouter]],
        load: Callable[[str], ServedRouter] | None = None,
    ) -> None:
        self._serving = serving
        self._load = load
        self._pinned: dict[str, ServedRouter] = {}

    def available(self, reference: str) -> bool:
        """Whether the router of a reference can score."""
        try:
            self.require(reference, "")
        except ConfigError:
            return False
        return True

    def require(self, reference: str, where: str) -> None:
        """Have the router of a reference ready to score. Raises ConfigError, naming `where` it is required and why."""
        source, version = split_reference(reference)
        serving = self._serving()
        if version is None:
            if source not in serving:
                raise ConfigError(
                    f"{where}: it requires router {source!r}, which is not offered ({', '.join(serving)}): add it to "
                    "routing.offered, or fit the cascade without its score"
                )
            return
        if reference in self._pinned:
            return
        same = next((served for served in serving.values() if served.version == version), None)
        if same is None and self._load is not None:
            try:
                same = self._load(reference)
            except ConfigError as e:
                raise ConfigError(
                    f"{where}: it was fitted on the scores of router {reference}, which is not available ({e}); put "
                    "that version into routing.registry, or collect with the router that serves and fit again"
                ) from e
        if same is None:
            raise ConfigError(
                f"{where}: it was fitted on the scores of router {reference}; in service are "
                f"{', '.join(f'{s.name}@{s.version}' for s in serving.values())}: serve that version, or fit again"
            )
        self._pinned[reference] = same

    def router(self, reference: str) -> Registered | None:
        """The router behind a reference, if it is ready to score."""
        served = self._pinned.get(reference) or self._serving().get(reference)
        return served.registered if served is not None else None

    async def score(self, reference: str, query: Query) -> float | None:
        """The strong win rate of a query; None where the router fails or is no longer in service."""
        served = self._pinned.get(reference) or self._serving().get(reference)
        if served is None:
            return None
        try:
            return await served.score(query)
        except ScoringFailed:
            return None
