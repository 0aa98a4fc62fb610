"""The routers in service: all of the registry, one of them by default, each in its current version.

A version that fails to load takes nothing away: the previous one keeps serving and the error is reported.
"""

import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from serve_app.config.strategies import RoutingConfig
from serve_app.config.tree import Config
from serve_app.errors import ConfigError, Conflict, DependencyError, JethroError
from serve_app.routing.artefact import Registered
from serve_app.routing.base import Placement
from serve_app.routing.default import (
    UNDECIDED,
    default_source,
    guess_note,
    guess_statement,
    is_undecided,
    undecided_statement,
)
from serve_app.routing.reference import open_reference, split_reference
from serve_app.routing.registry import RANDOM, RANDOM_THRESHOLD, Registry
from serve_app.routing.serving.batching import Act, ScoringThread
from serve_app.routing.serving.served import ServedRouter, checked
from serve_app.routing.thresholds import RouterThreshold, read_chosen
from serve_app.types import Message, Query

HEAVY: Final[tuple[Placement, ...]] = ("scorer",)
"""Placements of routers that score in the Scorer, where there is one."""
_WARM_UP = Query((Message("user", "What is 12 + 30? Give the bare result."),))
_FIRST_S: Final = 60.0
"""Limit of the first query that warms a router up: it imports torch and loads an encoder."""

logger = logging.getLogger("jethro.routing")


class RemoteScorer(Protocol):
    """The Scorer, in another process: routers by their source (a name or a folder) and version."""

    async def score(self, source: str, version: str, text: str) -> float:
        """The strong win rate of a text."""

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """Feature contributions to its score."""

    def prepare(self, source: str, version: str) -> None:
        """Load a router there; waits, so call it in a thread. Raises ConfigError if loading fails."""


class RouterFactory:
    """Loads routers for service. Those placed in `placements` score in `remote`, if there is one."""

    def __init__(
        self,
        routing: RoutingConfig,
        registry: Registry,
        remote: RemoteScorer | None = None,
        placements: Collection[Placement] = HEAVY,
        *,
        check_only: bool = False,
    ) -> None:
        """`check_only`: no router is warmed up, for a process that will score nothing."""
        self._routing = routing
        self._registry = registry
        self._remote = remote
        self._placements = placements if remote is not None else ()
        self._check_only = check_only
        self._thread = ScoringThread(routing.score_batch, partial(limit_torch_threads, routing.score_threads))

    def load(self, source: str, version: str | None = None, *, eager: bool = True) -> ServedRouter:
        """The router of a reference, in a version or the current one, loaded and warmed up; takes seconds.

        Without `eager` a router that scores on the thread is warmed up by its first query, which waits for it: an
        encoder without traffic then costs neither memory nor startup time. Raises ConfigError for a router that fails
        to load or to score.
        """
        try:
            source, found = self._read(source, version)
        except JethroError:
            raise
        except Exception as e:
            raise ConfigError(f"router {source} cannot be loaded ({e!r}); train and register it again") from e
        placement, kept = found.loaded.placement, self._routing.score_cache
        timeout_s = self._routing.score_timeout_ms / 1e3
        if found.remote and self._remote is not None:
            self._remote.prepare(source, found.version)
            call = partial(_call_remote, self._remote, source, found.version)
            return ServedRouter(found, source, call, timeout_s=timeout_s, kept=kept)
        late = placement == "batched" and (not eager or self._check_only)
        if not late:
            limit_torch_threads(self._routing.score_threads)  # other routers serve meanwhile
            warm_up(found)
        if placement == "inline":
            return ServedRouter(found, source)
        first_s = max(_FIRST_S, timeout_s) if late else None
        call = partial(self._thread.call, found.router)
        return ServedRouter(found, source, call, timeout_s=timeout_s, kept=kept, first_s=first_s)

    def close(self) -> None:
        """End the scoring thread."""
        self._thread.close()

    def _read(self, source: str, version: str | None) -> tuple[str, Registered]:
        source, pinned = split_reference(source)
        version = version or pinned
        if source not in self._registry.names() and Path(source).is_dir():
            source = str(Path(source).absolute())
        reference = source if version is None else f"{source}@{version}"
        return source, open_reference(self._registry, reference, remote=self._placements)


async def _call_remote(remote: RemoteScorer, source: str, version: str, query: Query, act: Act) -> Any:
    if act == "score":
        return await remote.score(source, version, query.text)
    return await remote.explain(source, version, query.text)


def warm_up(found: Registered) -> None:
    """Score once, so that no query waits for lazy loading. Raises ConfigError if that fails."""
    try:
        checked(float(found.router.score((_WARM_UP,))[0]))
    except JethroError:
        raise
    except Exception as e:
        raise ConfigError(f"router {found.name} {found.version} does not score ({e!r}); train it again") from e


def limit_torch_threads(threads: int) -> None:
    """Limit the calling thread's share of the cores, if torch is in use at all; other threads keep theirs."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class RouterSet:
    """All routers in service, by name; the model `jethro` means `default` at `threshold`.

    `refused` holds, by name, why a version that should serve does not; `notes` what the decisions of a router say that
    does not know the models, and `default_note` those of the default. `statement` says it to the operator.
    """

    routers: Mapping[str, ServedRouter]
    default: str
    threshold: float
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    default_note: str | None = None
    statement: str | None = None


@dataclass(frozen=True, eq=False)
class Loader:
    """Loads RouterSets; not for the event loop. `models` are the ids of the weak and the strong pool."""

    routing: RoutingConfig
    registry: Registry
    factory: RouterFactory
    models: tuple[str, str]

    @classmethod
    def from_config(cls, config: Config, remote: RemoteScorer | None = None, *, check_only: bool = False) -> "Loader":
        """The loader of a config; `check_only`: see RouterFactory."""
        registry = Registry(Path(config.routing.registry), config.routing.seed)
        factory = RouterFactory(config.routing, registry, remote, config.scorer.placements, check_only=check_only)
        return cls(config.routing, registry, factory, config.routed_models)

    def fingerprint(self) -> tuple[str, ...]:
        """See Registry.fingerprint."""
        return self.registry.fingerprint()

    def load(self, before: RouterSet | None = None) -> RouterSet:
        """The routers to serve now; those that serve already in the right version are kept as they are.

        Raises ConfigError if no previous ones serve and the default router fails to load, or one that is offered does
        not exist.
        """
        if before is None:
            self._check_offered()
        refused: dict[str, str] = {}
        known = before.routers if before is not None else {}
        try:
            undecided = is_undecided(self.routing, self.registry, self.models)
            default = self._chosen(default_source(self.routing, self.registry, self.models), known)
            threshold = self._threshold(default, undecided)
            if default.watch is not None:
                default.watch.set_threshold(threshold)
        except JethroError as e:
            if before is None:
                raise
            default, threshold, undecided = known[before.default], before.threshold, before.default_note == UNDECIDED
            refused[before.default] = str(e)
        routers = {default.name: default}
        offered = self.routing.offered
        for name in self.registry.names():
            if name in routers or (offered is not None and name not in offered):
                continue
            try:
                routers[name] = self._named(name, known.get(name), default=False)
            except DependencyError as e:
                if self.registry.is_shipped(name):  # no config names it: an installation may do without
                    logger.info("the shipped router %s is not available: %s", name, e)
                else:
                    refused[name] = str(e)
            except JethroError as e:
                refused[name] = str(e)
                if name in known:
                    routers[name] = known[name]
        for name, why in refused.items():
            logger.error(
                "router %s is refused%s: %s", name, ", the previous version keeps serving" * (name in routers), why
            )
        found = RouterSet(dict(sorted(routers.items())), default.name, threshold, refused)
        found = self._noted(found, default.registered, undecided)
        if found.statement is not None and (before is None or before.statement != found.statement):
            logger.warning("%s", found.statement)
        return found

    def close(self) -> None:
        """End the scoring thread."""
        self.factory.close()

    def _check_offered(self) -> None:
        names = self.registry.names()
        if unknown := [name for name in self.routing.offered or () if name not in names]:
            raise ConfigError(
                f"routing.offered: no router {unknown[0]!r}: {self.registry.folder} and the package have "
                f"{', '.join(names)}; train it, or leave it out"
            )

    def _chosen(self, source: str, known: Mapping[str, ServedRouter]) -> ServedRouter:
        """The default router: of the registry, or in a folder, which is read once."""
        try:
            if source in self.registry.names():
                return self._named(source, known.get(source))
            name, version = split_reference(source)
            sources = (name, str(Path(name).absolute()))
            same = [r for r in known.values() if r.source in sources and version in (None, r.version)]
            return same[0] if same else self.factory.load(source)
        except (ConfigError, DependencyError) as e:
            where = "routing.router" if self.routing.router else f"the default of routing.registry ({source})"
            raise type(e)(f"{where}: {e}") from e

    def pinned(self, reference: str) -> ServedRouter:
        """The router of a reference, apart from those in service: it is not listed, and no swap replaces it.

        Takes seconds. Raises ConfigError for a version that does not exist or fails to load.
        """
        return self.factory.load(reference)

    def _named(self, name: str, known: ServedRouter | None, default: bool = True) -> ServedRouter:
        version, threshold = self.registry.serving(name)
        if known is None or known.source != name or known.version != version:
            # a shipped router may never get a query
            return self.factory.load(name, eager=default or not self.registry.is_shipped(name))
        own = RANDOM_THRESHOLD if name == RANDOM else float(known.registered.card["threshold"])
        chosen = own if threshold is None else threshold
        return known if chosen == known.threshold else known.at(chosen)

    def kept_threshold(self, served: ServedRouter, *, default: bool) -> RouterThreshold:
        """Where the threshold of a router in service can be changed. Raises Conflict where it cannot."""
        name, rule = served.name, threshold_rule(self.routing) if default else None
        if served.source != name or name not in self.registry.names():
            raise Conflict(
                f"Router {name} is served from a folder outside of the registry: register it, or set "
                "routing.threshold in the config.",
                code="router_not_registered",
            )
        serving = self.registry.current(name)
        if serving != served.version:
            raise Conflict(
                f"Router {name} serves {served.version}, but the registry says {serving}: run `jethro router use "
                f"{name}@{served.version}`, or take the version out of routing.router.",
                code="router_version_differs",
            )
        own = RANDOM_THRESHOLD if name == RANDOM else float(served.registered.card["threshold"])
        if rule is not None:
            own = default_threshold(self.routing, served.registered)
        return RouterThreshold(self.registry.folder / name, served.version, own, rule)

    def _threshold(self, served: ServedRouter, undecided: bool) -> float:
        """See `threshold_in_force`."""
        default = served.registered
        try:
            return threshold_in_force(self.routing, self.registry, default, served.source)
        except ConfigError as e:
            if not undecided:
                raise
            raise ConfigError(f"{e} ({undecided_statement(self.registry, self.models, default.threshold)})") from e

    def _noted(self, found: RouterSet, default: Registered, undecided: bool) -> RouterSet:
        """With what is to be said of routers that do not know the models."""
        notes = {name: guess_note(served.registered, self.models) for name, served in found.routers.items()}
        if undecided:
            note, statement = UNDECIDED, undecided_statement(self.registry, self.models, found.threshold)
        else:
            note, statement = notes[found.default] or "", guess_statement(default, self.models) or ""
        known = {name: text for name, text in notes.items() if text is not None}
        return replace(found, notes=known, default_note=note or None, statement=statement or None)


def threshold_rule(routing: RoutingConfig) -> str | None:
    """How the config sets the default router's threshold, in one word; None where it leaves that to the router."""
    if routing.threshold is not None:
        return f"threshold={routing.threshold:.10g}"
    if routing.strong_share is not None:
        return f"strong_share={routing.strong_share:.10g}"
    if routing.max_quality_drop is not None:
        promise = "" if routing.guarantee is None else f",{routing.guarantee},{routing.delta:.10g}"
        return f"max_quality_drop={routing.max_quality_drop:.10g}{promise}"
    return None


def threshold_in_force(routing: RoutingConfig, registry: Registry, default: Registered, source: str) -> float:
    """Of the default router: what an operator chose while the config said the same as now, else the config's.

    `source` is the name or the folder that it is loaded by. Raises ConfigError.
    """
    if source == default.name:
        chosen = read_chosen(registry.folder / source)
        if chosen is not None and chosen.holds(default.version, threshold_rule(routing)):
            assert chosen.threshold is not None
            return chosen.threshold
    return default_threshold(routing, default)


def default_threshold(routing: RoutingConfig, registered: Registered) -> float:
    """The config's threshold: given, or calibrated to a share or a quality target; else the artefact's."""
    if routing.threshold is not None:
        return routing.threshold
    if routing.strong_share is not None:
        return registered.calibrated(strong_share=routing.strong_share)
    if routing.max_quality_drop is not None:
        return registered.calibrated(
            max_quality_drop=routing.max_quality_drop, guarantee=routing.guarantee, delta=routing.delta
        )
    return registered.threshold
