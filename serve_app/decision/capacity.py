"""Capacity in the decision: as the strong pool fills, borderline queries go weak before any request is rejected.

The threshold rises with the utilisation of the strong pool: not at all up to `from_utilisation`, then in a straight
line, up to `max_threshold_shift` at `to_utilisation`. It never rises past the quality floor of the config, the tenant,
or the request: a query that the weak pool would answer below the floor waits for the strong one. A pure function of
loads; calls moved this way still count as demand on the strong pool, so that autoscaling sees them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.config.strategies import CapacityConfig
from serve_app.config.tree import Config
from serve_app.errors import RequestError
from serve_app.pools.base import PoolLoad
from serve_app.types import Query

FLOOR = "jethro_min_quality"
"""Key of a request's metadata: the quality in [0, 1] that the weak pool must promise for the query to move there."""


@dataclass(frozen=True, slots=True)
class OverloadPolicy:
    """The rule of a config; `tenants` holds the floors of tenants that have one of their own."""

    rule: CapacityConfig
    tenants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config) -> "OverloadPolicy | None":
        """None unless it is enabled."""
        if not config.routing.capacity.enabled:
            return None
        floors = {key.name: key.min_quality for key in config.server.keys if key.min_quality is not None}
        return cls(config.routing.capacity, floors)

    def threshold(self, threshold: float, weak: PoolLoad, strong: PoolLoad) -> float:
        """The threshold in force under these loads: at least `threshold`, at most 1.

        It stays if the weak pool is as full as the strong one, or if a pool's number of places is unknown.
        """
        full = utilisation(strong)
        if full <= self.rule.from_utilisation or utilisation(weak) >= full:
            return threshold
        span = self.rule.to_utilisation - self.rule.from_utilisation
        part = min((full - self.rule.from_utilisation) / span, 1.0)
        return max(threshold, min(1.0, threshold + part * self.rule.max_threshold_shift))

    def allows(self, query: Query, weak_quality: float | None) -> bool:
        """Whether the weak pool's expected quality is enough for this query; None if it is unknown.

        Raises RequestError for a floor in the metadata that is not a number in [0, 1].
        """
        floor = self.floor(query)
        return floor is None or (weak_quality is not None and weak_quality >= floor)

    def floor(self, query: Query) -> float | None:
        """The highest floor stated for a query, None without one."""
        stated = [self.rule.quality_floor, self.tenants.get(query.tenant or ""), _requested(query)]
        return max((floor for floor in stated if floor is not None), default=None)


def utilisation(load: PoolLoad) -> float:
    """Requests per place: above 1 some wait. 0 where no replica or no bound is known."""
    return (load.in_flight + load.waiting) / load.places if load.places else 0.0


def _requested(query: Query) -> float | None:
    text = query.metadata.get(FLOOR)
    if text is None:
        return None
    try:
        floor = float(text)
    except ValueError:
        floor = math.nan
    if not 0.0 <= floor <= 1.0:
        raise RequestError(
            f"metadata.{FLOOR}: {text[:40]!r} is not a quality: give a number from 0 to 1", param=f"metadata.{FLOOR}"
        )
    return floor
