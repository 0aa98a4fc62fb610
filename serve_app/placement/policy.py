"""Decides a request's privacy class and the pools that it may reach, before a strategy sees it.

The strictest wins, of the key's default, what was detected, and the caller's header. A header may loosen only where
the config says so. Rules then restrict further and never widen. Nothing that comes later, be it quality, cost, load or
a failure, changes `Query.reach`; `narrowed` can only take pools away.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from serve_app.config.placement import RuleConfig
from serve_app.config.tree import Config
from serve_app.guards.personal.detector import PersonalData, texts_of
from serve_app.types import Place, Privacy, Query
from serve_app.wire.frames import Call

STRICTEST: Final[tuple[Privacy, ...]] = ("local", "private", "any")
PLACES: Final[Mapping[Privacy, tuple[Place, ...]]] = {
    "local": ("local",),
    "private": ("local", "private"),
    "any": ("local", "private", "public"),
}
"""By class, who may run the pools that it reaches."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A query with its class and its reach, and what was detected in it, by category."""

    query: Query
    detected: Mapping[str, int] = field(default_factory=Counter)


class PlacementPolicy:
    """The rules of a config; one for all requests of a Gateway."""

    def __init__(self, config: Config, personal: PersonalData | None = None) -> None:
        """`personal` finds personal data; required where the config detects."""
        settings = config.placement
        self._settings, self._personal = settings, personal if settings.detects else None
        self.reads_text = self._personal is not None
        """Whether a class may depend on what a request says."""
        self._classes = {key.name: key.privacy for key in config.server.keys if key.privacy is not None}
        self._loosening = {key.name for key in config.server.keys if key.may_loosen}
        self._places: Mapping[str, Place] = {name: pool.located for name, pool in config.pools.items()}
        self._all = frozenset(config.pools)
        self._reach = {privacy: config.pools_of(PLACES[privacy]) for privacy in STRICTEST}
        self._rules = [(rule, config.pools_of(rule.places) | frozenset(rule.pools)) for rule in settings.rules]

    def place_of(self, pool: str) -> Place | None:
        """Who runs a pool; None for what is no pool, as a stream's own level."""
        return self._places.get(pool)

    async def place(self, query: Query, requested: Privacy | None, call: Call) -> Placed:
        """The query, placed. `requested`: the caller's header. Raises what the detection raises: unchecked is no class.

        `query.tenant` must be set. The class that the query has already, as of an earlier answer that it continues,
        holds at least: no header loosens it.
        """
        detected: Mapping[str, int] = Counter()
        if self._personal is not None:
            found = await self._personal.find(texts_of(query), query, call)
            detected = Counter(span.category for spans in found for span in spans)
        privacy = min(self.privacy(query.tenant, requested, bool(detected)), query.privacy, key=STRICTEST.index)
        categories = frozenset(detected)
        reach = self._reach[privacy]
        for rule, allowed in self._rules:
            if _applies(rule, query, privacy, categories, query.task):
                reach &= allowed
        if privacy == "any" and reach == self._all and not categories:
            return Placed(query, detected)
        return Placed(replace(query, privacy=privacy, reach=reach, detected=categories), detected)

    def privacy(self, tenant: str | None, requested: Privacy | None, detected: bool) -> Privacy:
        """The class in force: the strictest, unless the caller may loosen and names one."""
        settings = self._settings
        given: list[Privacy] = [self._classes.get(tenant or "", settings.default)]
        if detected and settings.detected is not None:
            given.append(settings.detected)
        if requested is not None:
            if settings.may_loosen or tenant in self._loosening:
                return requested
            given.append(requested)
        return min(given, key=STRICTEST.index)

    def narrowed(self, query: Query, task: str) -> Query:
        """The query with the rules of a task as well, for a strategy that found out the task: never a wider reach."""
        before = self._all if query.reach is None else query.reach
        reach = before
        for rule, allowed in self._rules:
            if rule.tasks is not None and _applies(rule, query, query.privacy, query.detected, task):
                reach &= allowed
        return query if reach == before else replace(query, reach=reach)


def _applies(rule: RuleConfig, query: Query, privacy: Privacy, detected: frozenset[str], task: str | None) -> bool:
    """Whether all that the rule names is so."""
    return (
        (rule.tenants is None or query.tenant in rule.tenants)
        and (rule.classes is None or privacy in rule.classes)
        and (rule.detected is None or not detected.isdisjoint(rule.detected))
        and (rule.tasks is None or task in rule.tasks)
    )
