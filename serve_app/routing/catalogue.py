"""What the `model` field may name, and the strategy that each name stands for."""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.config.tree import Config, RoutingConfig
from serve_app.errors import ModelNotFound, RequestError
from serve_app.pools.base import Pool
from serve_app.routing.outlook import CalibratedOutlook
from serve_app.routing.registered import Registered
from serve_app.routing.registry import load_router, router_names
from serve_app.routing.scoring import InlineScorer
from serve_app.routing.strategy import DirectStrategy, NoOutlook, Outlook, Policy, RouteStrategy
from serve_app.strategy import Strategy

_ROUTER_FORM = re.compile(r"router-([a-z0-9_]+)-(.+)")
_CACHED = 128
"""Strategies of the form router-NAME-THRESHOLD that are kept; callers may invent any number of thresholds."""

log = logging.getLogger("jethro.routing")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One entry of /v1/models."""

    id: str
    description: str
    owned_by: str = "jethro"


class Catalogue:
    """Names to strategies, over the two pools that the router chooses between and any further ones."""

    def __init__(self, pools: Mapping[str, Pool], default: Registered, threshold: float, seed: int = 0) -> None:
        """Raises KeyError unless `small` and `large` are among the pools."""
        self._pools = pools
        self._weak, self._strong = pools["small"], pools["large"]
        self._seed = seed
        self._routers: dict[str, Registered] = {default.router.name: default}
        self._outlooks: dict[str, Outlook] = {}
        self._made: OrderedDict[str, RouteStrategy] = OrderedDict()
        route = self._route("route", default, threshold)
        self._named: dict[str, Strategy] = {"jethro": route, "jethro-route": route}
        self._named.update({pool.model: DirectStrategy(pool) for pool in pools.values()})

    @classmethod
    def from_config(cls, config: Config, pools: Mapping[str, Pool]) -> "Catalogue":
        """The catalogue of a config. Raises ConfigError if the router or its threshold cannot be had."""
        default = load_router(config.routing.router, seed=config.routing.seed)
        threshold = default_threshold(config.routing, default)
        served = (pools["small"].model, pools["large"].model)
        if default.models is not None and default.models != served:
            log.warning(
                "router %s was trained on the answers of %s and %s, but serves %s and %s: its scores are a guess "
                "there; collect their answers and train it again",
                default.router.name,
                *default.models,
                *served,
            )
        return cls(pools, default, threshold, config.routing.seed)

    def resolve(self, model: str) -> Strategy:
        """The strategy for a `model` field.

        Raises ModelNotFound for an unknown name, RequestError for a threshold that is no number in [0, 1].
        """
        strategy = self._named.get(model) or self._made.get(model)
        if strategy is not None:
            return strategy
        form = _ROUTER_FORM.fullmatch(model)
        if form is None:
            raise ModelNotFound(
                f"The model {model[:100]!r} does not exist: give one of {', '.join(self._named)}, "
                "or router-NAME-THRESHOLD",
                param="model",
            )
        return self._remember(model, self._from_form(model, form[1], form[2]))

    def models(self) -> list[ListedModel]:
        """Every name that can be listed; of the router form one example per router, at its default threshold."""
        listed = [
            ListedModel("jethro", "the configured default strategy"),
            ListedModel("jethro-route", "a router sends each query to the small or the large model"),
        ]
        listed += [ListedModel(pool.model, f"the {pool.name} pool, no decision") for pool in self._pools.values()]
        for name in self._router_names():
            threshold = self._registered(name).threshold
            listed.append(ListedModel(f"router-{name}-{threshold:.4g}", f"router {name} with a threshold of your own"))
        return listed

    def _from_form(self, model: str, name: str, text: str) -> RouteStrategy:
        names = self._router_names()
        if name not in names:
            raise ModelNotFound(f"The router {name!r} does not exist: there are {', '.join(names)}", param="model")
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1.0
        if not 0.0 <= threshold <= 1.0:
            raise RequestError(
                f"model: {text[:40]!r} is no threshold: give a number from 0 (always strong) to 1, "
                f"as in router-{name}-0.5",
                param="model",
                code="invalid_threshold",
            )
        return self._route(f"router-{name}", self._registered(name), threshold)

    def _remember(self, model: str, strategy: RouteStrategy) -> RouteStrategy:
        self._made[model] = strategy
        if len(self._made) > _CACHED:
            self._made.popitem(last=False)
        return strategy

    def _router_names(self) -> list[str]:
        return sorted({*router_names(), *self._routers})

    def _registered(self, name: str) -> Registered:
        if name not in self._routers:
            self._routers[name] = load_router(name, seed=self._seed)
        return self._routers[name]

    def _route(self, name: str, registered: Registered, threshold: float) -> RouteStrategy:
        outlook = self._outlooks.get(registered.version) or self._outlook(registered)
        version = f"{registered.version}@{threshold:.6g}"
        return RouteStrategy(
            name,
            Policy(InlineScorer(registered.router, registered.name), threshold, version, outlook),
            self._weak,
            self._strong,
        )

    def _outlook(self, registered: Registered) -> Outlook:
        outlook: Outlook = NoOutlook()
        if registered.calibration is not None and registered.models == (self._weak.model, self._strong.model):
            outlook = CalibratedOutlook(registered.calibration, self._weak, self._strong)
        self._outlooks[registered.version] = outlook
        return outlook


def default_threshold(routing: RoutingConfig, registered: Registered) -> float:
    """The threshold that the config asks for: given, calibrated to a share or a quality target, or the artefact's."""
    if routing.threshold is not None:
        return routing.threshold
    if routing.strong_share is not None:
        return registered.calibrated(strong_share=routing.strong_share)
    if routing.max_quality_drop is not None:
        return registered.calibrated(max_quality_drop=routing.max_quality_drop)
    return registered.threshold
