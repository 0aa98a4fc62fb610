"""Which routers serve: all of the registry, one of them by default, each in its current version; and again when told.

A version that cannot be loaded takes nothing away: the one before goes on serving, and the refusal is told.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.config.tree import Config, RoutingConfig
from serve_app.errors import DependencyError, JethroError
from serve_app.routing.registered import Registered
from serve_app.routing.registry import RANDOM, Registry
from serve_app.routing.serving.served import Placing, Remote, Served

FALLBACK = "complexity"
"""Serves where neither the config nor the registry names a router; it ships with the package."""

logger = logging.getLogger("jethro.routing")


@dataclass(frozen=True, slots=True)
class RouterSet:
    """All routers that serve, by name; `default` with `threshold` is what `jethro` stands for.

    `refused` says, by name, why a version that should serve does not.
    """

    routers: Mapping[str, Served]
    default: str
    threshold: float
    refused: Mapping[str, str] = field(default_factory=dict)


class Loader:
    """Loads RouterSets; not for the event loop. `models` are the ids of the weak and the strong pool."""

    def __init__(self, routing: RoutingConfig, registry: Registry, placing: Placing, models: tuple[str, str]) -> None:
        self._routing = routing
        self._registry = registry
        self._placing = placing
        self._models = models

    @classmethod
    def from_config(cls, config: Config, remote: Remote | None = None) -> "Loader":
        """The loader of a config."""
        registry = Registry(Path(config.routing.registry), config.routing.seed)
        models = (config.pools["small"].model, config.pools["large"].model)
        placing = Placing(config.routing, registry, remote, config.scorer.placements)
        return cls(config.routing, registry, placing, models)

    def fingerprint(self) -> tuple[str, ...]:
        """See Registry.fingerprint."""
        return self._registry.fingerprint()

    def load(self, before: RouterSet | None = None) -> RouterSet:
        """What is to serve now; what serves already in the right version is taken over as it is.

        Raises ConfigError if the default router cannot be had and there is none before it.
        """
        refused: dict[str, str] = {}
        known = before.routers if before is not None else {}
        try:
            default = self._chosen(default_source(self._routing, self._registry), known)
            threshold = default_threshold(self._routing, default.registered)
            if default.watch is not None:
                default.watch.aim(threshold)
            if default not in known.values():
                self._say_foreign(default.registered)
        except JethroError as e:
            if before is None:
                raise
            default, threshold = known[before.default], before.threshold
            refused[before.default] = str(e)
        routers = {default.name: default}
        for name in self._names():
            if name in routers:
                continue
            try:
                routers[name] = self._named(name, known.get(name), default=False)
            except DependencyError as e:
                if self._registry.is_shipped(name):  # nobody asked for it: an installation may do without
                    logger.info("router %s, which ships, is not offered: %s", name, e)
                else:
                    refused[name] = str(e)
            except JethroError as e:
                refused[name] = str(e)
                if name in known:
                    routers[name] = known[name]
        for name, why in refused.items():
            logger.error("router %s is refused%s: %s", name, " and the one before serves on" * (name in routers), why)
        return RouterSet(dict(sorted(routers.items())), default.name, threshold, refused)

    def close(self) -> None:
        """End what computes."""
        self._placing.close()

    def _names(self) -> list[str]:
        names, offered = self._registry.names(), self._routing.offered
        return names if offered is None else [name for name in names if name in offered]

    def _chosen(self, source: str, known: Mapping[str, Served]) -> Served:
        """The default router: of the registry, or in a folder, which is read once."""
        if source in self._registry.names():
            return self._named(source, known.get(source))
        same = [served for served in known.values() if served.source == str(Path(source).absolute())]
        return same[0] if same else self._placing.load(source)

    def _named(self, name: str, known: Served | None, default: bool = True) -> Served:
        version, threshold = self._registry.serving(name)
        if known is None or known.source != name or known.registered.version != version:
            # what only ships may never be asked for
            return self._placing.load(name, eager=default or not self._registry.is_shipped(name))
        if name == RANDOM:
            return known
        wanted = threshold if threshold is not None else float(known.registered.card["threshold"])
        return known if wanted == known.registered.threshold else known.at(wanted)

    def _say_foreign(self, found: Registered) -> None:
        """A router knows nothing of models whose answers it never saw."""
        if found.models is not None and found.models != self._models:
            logger.warning(
                "router %s was trained on the answers of %s and %s, but serves %s and %s: its scores are a guess "
                "there; collect their answers and train it again",
                found.name,
                *found.models,
                *self._models,
            )


def default_source(routing: RoutingConfig, registry: Registry) -> str:
    """Name or folder of the router that `jethro` stands for: the config's, the registry's, or the one that ships."""
    return routing.router or registry.default() or FALLBACK


def default_threshold(routing: RoutingConfig, registered: Registered) -> float:
    """The threshold that the config asks for: given, calibrated to a share or a quality target, or the artefact's."""
    if routing.threshold is not None:
        return routing.threshold
    if routing.strong_share is not None:
        return registered.calibrated(strong_share=routing.strong_share)
    if routing.max_quality_drop is not None:
        return registered.calibrated(
            max_quality_drop=routing.max_quality_drop, guarantee=routing.guarantee, delta=routing.delta
        )
    return registered.threshold
