"""The cascades of a config: which chain serves each name, or why no chain does."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Final

from serve_app.cascade.artefact import chain_of, load_chain
from serve_app.cascade.base import Chain
from serve_app.cascade.routing.router import load_routing
from serve_app.cascade.serving.routed import RoutedCascade
from serve_app.cascade.serving.run import PriorOf
from serve_app.cascade.serving.skipping import LatencyEstimate, with_prior_limits
from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.cascade.serving.streaming import Race, StreamingCascade
from serve_app.config.strategies import CascadeConfig, ChainConfig, RaceConfig
from serve_app.errors import ConfigError
from serve_app.pools.base import Pool
from serve_app.strategy import Strategy

CASCADE: Final = "jethro-cascade"
STREAM: Final = "jethro-cascade-stream"
ROUTE: Final = "jethro-cascade-route"
_REMEDY: Final = "fit one on these models' answers with `jethro cascade fit` and name its folder in"

logger = logging.getLogger("jethro.gateway")


@dataclass(frozen=True, slots=True)
class AvailableCascades:
    """Strategies by name, each with a one-line description; `missing` has the reason for every other name."""

    strategies: Mapping[str, tuple[Strategy, str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def load_cascades(
    config: CascadeConfig, pools: Mapping[str, Pool], prior: PriorOf, routers: Collection[str]
) -> AvailableCascades:
    """The cascades that the config has over these pools and router names.

    Raises ConfigError for a configured chain that is invalid or cannot be served.
    """
    latency = LatencyEstimate(config.min_remaining_s)
    strategies: dict[str, tuple[Strategy, str]] = {}
    missing = {}
    whole = _chain(config, "cascade", "whole", pools, routers)
    if whole is None:
        missing[CASCADE] = f"No cascade is fitted for these pools: {_REMEDY} cascade.chain."
    else:
        whole = replace(whole, probe_tokens=None)  # whole answers are checked, whatever the chain was fitted on
        whole = with_prior_limits(whole) if config.skip_hopeless else whole
        strategy = CascadeStrategy("cascade", whole, pools, prior, latency)
        line = f"{_names(whole)}: an answer of low confidence is replaced by the next model's"
        strategies[CASCADE] = (strategy, line)
    early = _chain(config.streaming, "cascade.streaming", "stream", pools, routers)
    if early is None:
        missing[STREAM] = f"No streaming cascade is fitted for these pools: {_REMEDY} cascade.streaming.chain."
    else:
        _check_first_tokens_suffice(early)
        early = replace(early, probe_tokens=_probe_tokens(config, early))
        early = with_prior_limits(early) if config.skip_hopeless else early
        race = _race(config.streaming.race, early, routers)
        streaming = StreamingCascade("cascade-stream", early, pools, prior, latency, race)
        strategies[STREAM] = (streaming, f"{_names(early)}: checked by the first tokens, before any is sent")
    routed = _routed(config, pools, prior, routers, latency)
    if routed is None:
        missing[ROUTE] = (
            "No cascade router is fitted for these pools: fit one on these models' answers with "
            "`jethro cascade fit-routing` and name its folder in cascade.routing."
        )
    else:
        line = f"{', '.join(routed.routing.pools)}: after each answer, whether to stop or which model is next"
        strategies[ROUTE] = (routed, line)
    return AvailableCascades(strategies, missing)


def _race(race: RaceConfig | None, chain: Chain, routers: Collection[str]) -> Race | None:
    """The rule, by the score of the router that the chain reads already, or else of the configured one."""
    if race is None:
        return None
    router = next(iter(_priors(chain)), race.router)
    _require_router(router, "cascade.streaming.race.router", routers)
    return Race(router, race.low, race.high, race.wasted_share)


def _chain(
    settings: ChainConfig, key: str, ships: str, pools: Mapping[str, Pool], routers: Collection[str]
) -> Chain | None:
    """The chain of the settings, ready to serve; None if none is configured and the shipped one is for other models."""
    if settings.chain is None and settings.levels is None:
        with resources.as_file(resources.files("serve_app.cascade") / "lab" / ships) as folder:
            chain = load_chain(folder)
        return chain if _fits(chain, pools, routers) else None
    if settings.chain is not None:
        where = f"{key}.chain: {settings.chain}"
        chain = load_chain(Path(settings.chain))
    else:
        where = f"{key}.levels"
        specs = [level.model_dump(exclude_none=True) for level in settings.levels or ()]
        chain = chain_of(specs, where, getattr(settings, "probe_tokens", None))
    return _served(chain, where, pools, routers)


def _routed(
    config: CascadeConfig, pools: Mapping[str, Pool], prior: PriorOf, routers: Collection[str], latency: LatencyEstimate
) -> RoutedCascade | None:
    """The configured cascade router, ready to serve; else the shipped one, if it is for these models; else None."""
    if config.routing is not None:
        routed = RoutedCascade("cascade-route", load_routing(Path(config.routing)), pools, prior, latency)
        _served(routed.chain, f"cascade.routing: {config.routing}", pools, routers)
        return routed
    with resources.as_file(resources.files("serve_app.cascade") / "lab" / "routing") as folder:
        router = load_routing(folder)
    if not set(router.pools) <= set(pools):
        return None
    routed = RoutedCascade("cascade-route", router, pools, prior, latency)
    return routed if _fits(routed.chain, pools, routers) else None


def _fits(chain: Chain, pools: Mapping[str, Pool], routers: Collection[str]) -> bool:
    """Whether a shipped chain was fitted on these pools' models, and its routers are available."""
    served = [pools[level.pool].model if level.pool in pools else "" for level in chain.levels]
    return served == list(chain.models) and set(_priors(chain)) <= set(routers)


def _require_router(router: str, where: str, routers: Collection[str]) -> None:
    if router not in routers:
        raise ConfigError(
            f"{where}: it requires router {router!r}, which is not offered ({', '.join(routers)}): add it to "
            "routing.offered, or fit the cascade without its score"
        )


def _served(chain: Chain, where: str, pools: Mapping[str, Pool], routers: Collection[str]) -> Chain:
    """The chain. Raises ConfigError if the pools are not those it was fitted on, or lack what its signals need."""
    for router in _priors(chain):
        _require_router(router, where, routers)
    for number, level in enumerate(chain.levels):
        pool = pools.get(level.pool)
        if pool is None:
            raise ConfigError(
                f"{where}: level {number} is pool {level.pool!r}, but the config has {', '.join(pools)}: add it under "
                "pools, or fit the cascade on these"
            )
        model = chain.models[number] if chain.models else ""
        if model and model != pool.model:
            raise ConfigError(
                f"{where}: level {number} was fitted on {model!r}, but pools.{level.pool}.model is {pool.model!r}: "
                "fit the cascade on its answers, or serve that model"
            )
        if level.signal is not None and level.signal.needs.logprobs and not pool.capabilities.logprobs:
            raise ConfigError(
                f"{where}: level {number} needs log-probabilities ({level.signal.name}), which pool {level.pool} does "
                f"not return: set pools.{level.pool}.engine.logprobs if it does, or fit with another signal"
            )
    return chain


def _check_first_tokens_suffice(chain: Chain) -> None:
    """Raises ConfigError for a signal that needs further calls: a stream is not held for them."""
    for level in chain.levels:
        needs = level.signal.needs if level.signal is not None else None
        if needs is not None and (needs.samples or needs.verdicts):
            raise ConfigError(
                f"cascade.streaming: the signal of pool {level.pool} needs further calls (samples or verdicts), which "
                "a stream cannot wait for: fit the chain with signals of log-probabilities and prior"
            )


def _probe_tokens(config: CascadeConfig, chain: Chain) -> int:
    configured, fitted = config.streaming.probe_tokens, chain.probe_tokens
    if configured is None and fitted is None:
        raise ConfigError(
            "cascade.streaming: the chain checks whole answers (its probe_tokens is null): fit one for first tokens, "
            "or set cascade.streaming.probe_tokens"
        )
    if configured is not None and fitted is not None and configured != fitted:
        logger.warning(
            "cascade.streaming.probe_tokens is %d, but the chain was fitted on %d: probabilities are off",
            configured,
            fitted,
        )
    return configured or fitted or 1


def _priors(chain: Chain) -> list[str]:
    """Routers whose scores its signals need."""
    return [level.signal.needs.prior for level in chain.levels if level.signal and level.signal.needs.prior]


def _names(chain: Chain) -> str:
    return " -> ".join(level.pool for level in chain.levels)
