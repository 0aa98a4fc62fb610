"""The names that the `model` field may have, and the strategy behind each: the only place that knows all strategies."""

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve_app.config.tree import Config
from serve_app.decision.capacity import OverloadPolicy
from serve_app.decision.threshold import ExpectedOutcome
from serve_app.ensemble.serving.best_route import BestRouteStrategy, serves_candidates
from serve_app.ensemble.serving.model_loading import ModelLoader, ModelThreads
from serve_app.errors import ConfigError, ModelNotFound, RequestError
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.cascades import AvailableCascades, has_price, load_cascades
from serve_app.gateway.ensembles import load_best_of, load_ensembles
from serve_app.gateway.orchestration import ORCHESTRATE, judge_of, load_orchestration
from serve_app.gateway.priors import PriorRouters
from serve_app.guards.chain import Guards
from serve_app.pools.base import Pool
from serve_app.routing.embedding import Embedders
from serve_app.routing.multi_pool import NAME as ROUTE_ALL
from serve_app.routing.multi_pool import route_all
from serve_app.routing.serving.loading import Loader, RouterSet
from serve_app.routing.serving.served import ServedRouter
from serve_app.routing.strategy import DirectStrategy, RouteStrategy
from serve_app.strategy import Strategy
from serve_app.streams.base import PREFIX
from serve_app.streams.service import Streams
from serve_app.types import Query

_ROUTER_FORM = re.compile(r"router-([a-z0-9_]+)-(.+)")
_CACHED = 128
"""Strategies of the form router-NAME-THRESHOLD that are kept; callers may request any number of thresholds."""
_ALONE = "this endpoint has the small model alone (small_only)"
"""Why, in each decision of an endpoint without a large pool."""
_EXPLAINED = {"asked": frozenset(), "inline": frozenset({"inline"}), "all": frozenset({"inline", "batched", "scorer"})}
"""Setting `routing.explain` to the placements whose logged decisions carry an explanation."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One entry of /v1/models. `pool`: the one that answers, without a decision; `embeds`: for /v1/embeddings alone."""

    id: str
    description: str
    pool: str | None = None
    embeds: bool = False


class ModelAliases:
    """An operator's own names for models (`server.model_aliases`), and the names that they stand for.

    A name with `*` or `?` is a pattern; one without goes before them.
    """

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.targets = dict(aliases)
        self.names = {name: target for name, target in aliases.items() if not set(name) & set("*?[")}
        """Those that are no pattern."""
        patterns = [(name, target) for name, target in aliases.items() if name not in self.names]
        self._patterns = [(re.compile(fnmatch.translate(name)), target) for name, target in patterns]

    def target(self, model: str) -> str | None:
        """What the name stands for: by its own entry, else by the first pattern that matches; None for neither."""
        if model in self.names:
            return self.names[model]
        return next((target for pattern, target in self._patterns if pattern.fullmatch(model)), None)


class Catalogue:
    """Names to strategies, over the two pools that the router chooses between, further pools, and streams.

    `swap` replaces routers or versions at once: a strategy resolved before stays in use by its request.
    """

    def __init__(
        self,
        config: Config,
        pools: Mapping[str, Pool],
        routers: RouterSet,
        streams: Streams | None = None,
        load_router: Callable[[str], ServedRouter] | None = None,
        models: ModelLoader | None = None,
    ) -> None:
        """Raises KeyError unless `small` and, without `small_only`, `large` are among the pools.

        `load_router` finds versions (NAME@VERSION) that cascades were fitted with and that do not serve; `models` loads
        rankers and fusers, by default in this process. Raises ConfigError if `routing.multi_pool`, a cascade's chain
        or an ensemble's plan is invalid.
        """
        self._embedders = Embedders({name: pool for name, pool in pools.items() if pool.capabilities.embeddings})
        pools = {name: pool for name, pool in pools.items() if name not in self._embedders.pools}
        self._multi_pool = config.routing.multi_pool
        self._overload = OverloadPolicy.from_config(config)
        self._pools = pools
        self._streams = streams
        self.adapters: GatewayAdapters | None = None
        """Finds what MODEL:ADAPTER names; set before the first request, or never."""
        self._alone = config.small_only
        self._weak, self._strong = pools["small"], pools["small" if self._alone else "large"]
        self._explained = _EXPLAINED[config.routing.explain]
        self._expected: dict[str, ExpectedOutcome | None] = {}
        models, best_of = models or ModelLoader(ModelThreads()), config.routing.best_of
        self._best_of = load_best_of(best_of, models) if best_of is not None else None
        self._now = _Names(routers, {}, OrderedDict())
        priors = PriorRouters(lambda: self.routers.routers, load_router)
        self._cascades = AvailableCascades() if self._alone else load_cascades(config.cascade, pools, priors)
        ensembles = load_ensembles(config.ensemble, pools, models)
        self._orchestration, line = load_orchestration(config.orchestration, pools, priors)
        self._fitted = {**self._cascades.strategies, **ensembles.strategies, ORCHESTRATE: (self._orchestration, line)}
        self._missing = {**self._cascades.missing, **ensembles.missing}
        self._aliases = ModelAliases({})
        self.swap(routers)
        self._aliases = self._checked_aliases(config.server.model_aliases)
        if self._multi_pool is not None and ROUTE_ALL not in self._now.named:
            raise ConfigError(
                f"routing.multi_pool: router {self._multi_pool.router!r} does not estimate the large pool: "
                "train an estimator on these models' answers, or leave multi_pool out"
            )
        if self._multi_pool is not None and not any(has_price(pool.price) for pool in pools.values()):
            raise ConfigError(
                f"pools.*.price: no pool has one, and routing.multi_pool weighs quality against cost, so that "
                f"{ROUTE_ALL} would always call the best: set pools.NAME.price, or leave multi_pool out"
            )
        if self._best_of is not None:
            _check_best_of(routers, pools)
        if config.routing.capacity.enabled and config.routing.capacity.quality_floor is not None:
            self._check_floor()

    def _checked_aliases(self, given: Mapping[str, str]) -> ModelAliases:
        """Raises ConfigError for an alias of nothing; an adapter or a stream may come later."""
        for name, target in given.items():
            if ":" in target or target.startswith(PREFIX) or target in self._embedders:
                continue
            try:
                self.resolve(target)
            except RequestError as e:
                raise ConfigError(f"server.model_aliases: {name}: {e}") from e
        return ModelAliases(given)

    def _check_floor(self) -> None:
        default = self.routers.routers[self.routers.default]
        if self._expected[default.version] is None:
            raise ConfigError(
                f"routing.capacity.quality_floor: router {default.name} has no calibration data of these models, so "
                "that the small pool's quality is unknown and no query would be moved there: calibrate a router on "
                "their answers, or set null"
            )

    @classmethod
    def from_config(cls, config: Config, pools: Mapping[str, Pool]) -> "Catalogue":
        """The catalogue of a config, never swapped. Raises ConfigError if the default router cannot be loaded."""
        loader = Loader.from_config(config)
        return cls(config, pools, loader.load(), load_router=loader.pinned)

    def guard_by(self, guards: Guards | None, narrow: Callable[[Query, str], Query]) -> None:
        """Have orchestration hand an answer that the guards stop to the next tier, and follow a task's placement.

        Call it before the first request. `narrow` returns a query with the rules of a task.
        """
        self._orchestration.narrow = narrow
        if guards is not None:
            self._orchestration.judge = judge_of(guards)

    @property
    def routers(self) -> RouterSet:
        """The routers in service."""
        return self._now.routers

    @property
    def statements(self) -> list[str]:
        """For the operator: the default router, and the cascades' routers, that do not know the models."""
        default = self.routers.statement
        return [*([] if default is None else [default]), *self._cascades.statements]

    def swap(self, routers: RouterSet) -> None:
        """Serve these from the next request on."""
        self._expected = {router.version: self._expects(router) for router in routers.routers.values()}
        self._orchestration.router, self._orchestration.threshold = routers.default, routers.threshold
        self._orchestration.router_note = routers.default_note
        route = self._default(routers)
        named: dict[str, Strategy] = {"jethro": route, "jethro-route": route}
        many = self._multi_pool
        every = route_all(many, routers.routers.get(many.router), self._pools) if many is not None else None
        if every is not None:
            named[ROUTE_ALL] = every
        named.update({name: strategy for name, (strategy, _) in self._fitted.items()})
        named.update({pool.model: DirectStrategy(pool) for pool in self._pools.values()})
        self._now = _Names(routers, named, OrderedDict())

    def _default(self, routers: RouterSet) -> Strategy:
        """What the name jethro means: the default router's choice, or the one pool that there is."""
        if self._alone:
            return DirectStrategy(self._weak, reason=_ALONE)
        return self._route("route", routers.routers[routers.default], routers.threshold, routers.default_note)

    def embedding(self, model: str) -> Strategy:
        """The strategy for a `model` field of /v1/embeddings, an alias included.

        Raises ModelNotFound for what is no embedding model.
        """
        if model not in self._embedders and (target := self._aliases.target(model)) is not None:
            model = target
        now = self._now
        return self._embedders.resolve(model, chats=model in now.named or model in now.made)

    def resolve(self, model: str) -> Strategy:
        """The strategy for a `model` field of a route that chats; a name that does not exist may be an alias.

        Raises ModelNotFound for an unknown name, RequestError for a threshold that is not a number in [0, 1].
        """
        try:
            return self._named(model)
        except ModelNotFound:
            if (target := self._aliases.target(model)) is None:
                raise
        return self._named(target)

    def _named(self, model: str) -> Strategy:
        now = self._now
        strategy = now.named.get(model) or now.made.get(model)
        if strategy is not None:
            return strategy
        if self._streams is not None and model.startswith(PREFIX):
            return self._streams.strategy(model)
        if (why := self._missing.get(model)) is not None:
            raise ModelNotFound(why, param="model")
        self._embedders.refuse_chat(model)
        if self.adapters is not None and (found := self.adapters.resolve(model)) is not None:
            return DirectStrategy(*found)
        form = None if self._alone else _ROUTER_FORM.fullmatch(model)
        if form is None:
            raise ModelNotFound(
                f"The model {model[:100]!r} does not exist: use one of {', '.join(now.named)}"
                + ("" if self._alone else ", or router-NAME-THRESHOLD"),
                param="model",
            )
        made = now.made[model] = self._from_form(now.routers, form[1], form[2])
        if len(now.made) > _CACHED:
            now.made.popitem(last=False)
        return made

    def models(self) -> list[ModelEntry]:
        """Every name that can be listed; of the router form one example per router, at its default threshold."""
        listed = [
            ModelEntry("jethro", "the configured default strategy"),
            ModelEntry(
                "jethro-route", _ALONE if self._alone else "a router sends each query to the small or the large model"
            ),
        ]
        if ROUTE_ALL in self._now.named:
            listed.append(ModelEntry(ROUTE_ALL, "the pool of all that is worth its cost most"))
        listed += [ModelEntry(name, line) for name, (_, line) in self._fitted.items()]
        listed += [ModelEntry(p.model, f"the {p.name} pool, no decision", p.name) for p in self._pools.values()]
        for full, card, pool in self.adapters.names() if self.adapters is not None else ():
            task = f": {card.about.task}" if card.about.task else ""
            listed.append(ModelEntry(full, f"the {pool.name} pool with the adapter {card.name}{task}", pool.name))
        for name, served in {} if self._alone else self._now.routers.routers.items():
            form = f"router-{name}-{served.threshold:.4g}"
            listed.append(ModelEntry(form, f"router {name} with a threshold of your own"))
        listed += [ModelEntry(name, f"an alias of {target}") for name, target in self._aliases.names.items()]
        if self._streams is not None:
            line = "a stream: one label for one text, learned online"
            listed += [ModelEntry(PREFIX + name, line) for name in self._streams.names()]
        embedders = self._embedders.pools.values()
        listed += [
            ModelEntry(p.model, f"the {p.name} pool, for /v1/embeddings", p.name, embeds=True) for p in embedders
        ]
        return listed

    def _from_form(self, routers: RouterSet, name: str, text: str) -> Strategy:
        served = routers.routers.get(name)
        if served is None:
            raise ModelNotFound(
                f"The router {name[:64]!r} does not exist: there are {', '.join(routers.routers)}", param="model"
            )
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1.0
        if not 0.0 <= threshold <= 1.0:
            raise RequestError(
                f"model: {text[:40]!r} is not a threshold: use a number from 0 (always strong) to 1, "
                f"as in router-{name}-0.5",
                param="model",
                code="invalid_threshold",
            )
        return self._route(f"router-{name}", served, threshold, routers.notes.get(name))

    def _route(self, name: str, served: ServedRouter, threshold: float, note: str | None) -> Strategy:
        if self._best_of is not None and serves_candidates(served):
            return BestRouteStrategy(name, served, threshold, self._pools, self._best_of, warning=note)
        return RouteStrategy(
            name,
            served,
            threshold,
            (self._weak, self._strong),
            expected=self._expected.get(served.version),
            overload=self._overload,
            explained=served.registered.loaded.placement in self._explained,
            warning=note,
        )

    def _expects(self, served: ServedRouter) -> ExpectedOutcome | None:
        """Of these pools, at a router's score; None where it was calibrated on other models, or not at all."""
        registered = served.registered
        if served.version in self._expected:
            return self._expected[served.version]
        if registered.calibration is None or registered.models != (self._weak.model, self._strong.model):
            return None
        return ExpectedOutcome(registered.calibration, self._weak, self._strong)


def _check_best_of(routers: RouterSet, pools: Mapping[str, Pool]) -> None:
    """Raises ConfigError if `routing.best_of` would change nothing, or every candidate costs the same."""
    if not any(serves_candidates(served) for served in routers.routers.values()):
        raise ConfigError(
            "routing.best_of: no best_route router is offered in the Gateway: train one with `jethro router train "
            "best_route`, keep scorer.encoders false, or leave best_of out"
        )
    if not any(has_price(pool.price) for pool in pools.values()):
        raise ConfigError(
            "pools.*.price: no pool has one, and routing.best_of takes the cheapest candidate that is good enough: set "
            "pools.NAME.price, or leave best_of out"
        )


@dataclass(frozen=True, slots=True)
class _Names:
    """One state of the catalogue: the strategy of each name, and those made on request."""

    routers: RouterSet
    named: Mapping[str, Strategy]
    made: OrderedDict[str, Strategy]
