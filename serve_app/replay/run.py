"""A replay from start to end: the router that is meant, the decisions, their scores, and the figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.placement.policy import PLACES
from serve_app.replay.bootstrap_curve import Prices
from serve_app.replay.estimate import ReplayResult, estimate
from serve_app.replay.log import DecisionColumns
from serve_app.replay.policy import Progress, RouterPolicy, move
from serve_app.routing.artefact import Registered
from serve_app.routing.default import default_source, guess_note
from serve_app.routing.reference import open_reference, split_reference
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import threshold_in_force
from serve_app.store.filtering import DecisionFilter
from serve_app.types import Price

_NOT_HERE: Final = (
    "give a router, which decides for the model `jethro`; a cascade of small and large is replayed with --cascade, and "
    "other cascades and ensembles decide by answers that the log does not hold: compare them with `jethro cascade "
    "evaluate` and `jethro ensemble evaluate`"
)


@dataclass(frozen=True)
class ReplayPlan:
    """A router at a threshold, and what is known of it and of the pools."""

    found: Registered
    policy: RouterPolicy
    in_force: float | None
    """The threshold that the endpoint has now; None for a router that is not the default."""
    prices: Prices
    applies: bool
    """Whether the router was calibrated on the answers of the models in service."""
    local_only: Sequence[str] = ()
    note: str | None = None
    kind: str = "router"

    @classmethod
    def of(cls, config: Config, router: str | None = None, threshold: float | None = None) -> Self:
        """The plan for a config's endpoint: by default its own router at the threshold in force.

        Raises ConfigError for a router that does not exist, a threshold outside [0, 1], or a config without a choice.
        """
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"--threshold {threshold:g}: give a number from 0 (always large) to 1")
        registry, models = Registry(Path(config.routing.registry), config.routing.seed), config.routed_models
        default = default_source(config.routing, registry, models)
        reference = router or default
        if reference.startswith(("jethro-", "cascade", "ensemble")) and reference not in registry.names():
            raise ConfigError(f"--router {reference}: {_NOT_HERE}")
        found = open_reference(registry, reference)
        if (why := refusal(config, found)) is not None:
            raise ConfigError(why)
        source, pinned = split_reference(default)
        in_force = None
        if reference == default or (split_reference(reference)[0] == source and found.version == pinned):
            in_force = threshold_in_force(config.routing, registry, found, source)
        chosen = threshold if threshold is not None else found.threshold if in_force is None else in_force
        return cls.at(config, found, chosen, in_force)

    @classmethod
    def at(cls, config: Config, found: Registered, threshold: float, in_force: float | None) -> Self:
        """The plan for a router that is loaded, at a threshold."""
        models = config.routed_models
        prices = (_price(config, "small"), _price(config, "large"))
        closed = [privacy for privacy in ("local", "private") if "large" not in config.pools_of(PLACES[privacy])]
        policy = RouterPolicy(found.name, found.version, threshold)
        return cls(found, policy, in_force, prices, found.models == models, closed, guess_note(found, models))

    def replay(
        self, log: DecisionColumns, *, upcoming: int | None = None, progress: Progress = lambda done, of: None
    ) -> ReplayResult:
        """Decisions through the policy. Where the log has prompts, those without the router's score are scored now."""
        router = self.found.router if any(text is not None for text in log.prompt) else None
        moves = move(log, self.policy, router, local_only=self.local_only, progress=progress)
        return estimate(moves, self.prices, self.found.calibration if self.applies else None, upcoming=upcoming)


def refusal(config: Config, found: Registered) -> str | None:
    """Why decisions of this endpoint cannot be replayed through the router; None: they can."""
    if config.small_only:
        return "small_only: the endpoint has the small model alone, and no router decides anything"
    if config.routing.best_of is not None and found.loaded.name == "best_route":
        return (
            f"routing.best_of: {found.name} also chooses how many answers are drawn, which a threshold alone does not "
            "say: a replay cannot tell their cost"
        )
    return None


def needs_prompts(plan: ReplayPlan, versions: Iterable[str]) -> bool:
    """Whether any of the policy versions in a log is of another router version than the plan's."""
    return any(version.rpartition("@")[0] != plan.policy.version for version in versions)


def logged(path: Path, which: DecisionFilter, plan: ReplayPlan | None) -> DecisionColumns:
    """The decisions of a store's file, with prompts only where another version than the plan's has scored.

    Raises ConfigError.
    """
    log = DecisionColumns.of_file(path, which)
    if plan is not None and needs_prompts(
        plan, {str(version) for version in log.policy_version[log.strategy == "route"]}
    ):
        return DecisionColumns.of_file(path, which, prompts=True)
    return log


def recorded(records: Iterable[Mapping[str, Any]]) -> DecisionColumns:
    """The decisions of records, as an endpoint sends them."""
    return DecisionColumns.of_records(records)


def _price(config: Config, pool: str) -> Price:
    price = config.pools[pool].price
    return Price(price.input_usd_per_million, price.output_usd_per_million)
