"""The cascades of a config: which chain serves each name, or why none does."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

from serve_app.cascade.artefact import chain_of, load_chain
from serve_app.cascade.base import Chain
from serve_app.cascade.routing.router import load_routing
from serve_app.cascade.serving.routed import RoutedCascade
from serve_app.cascade.serving.skipping import Patience, prior_limit
from serve_app.cascade.serving.strategy import CascadeStrategy, PriorOf
from serve_app.cascade.serving.streaming import Early, Race, StreamingCascade
from serve_app.config.strategies import CascadeConfig, ChainConfig, RaceConfig
from serve_app.errors import ConfigError
from serve_app.pools.base import Pool
from serve_app.strategy import Strategy

CASCADE: Final = "jethro-cascade"
STREAM: Final = "jethro-cascade-stream"
ROUTE: Final = "jethro-cascade-route"
_MEND: Final = "fit one on these models' answers with `jethro cascade fit` and name its folder in"

logger = logging.getLogger("jethro.gateway")


@dataclass(frozen=True, slots=True)
class Offered:
    """Strategies by name, with a line on each; `missing` says of the other names why nobody answers to them."""

    strategies: Mapping[str, tuple[Strategy, str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def offered(config: CascadeConfig, pools: Mapping[str, Pool], prior: PriorOf, routers: Collection[str]) -> Offered:
    """What the config offers over these pools and router names.

    Raises ConfigError for a chain that is named and cannot be had or served.
    """
    patience = Patience(config.min_remaining_s)
    strategies: dict[str, tuple[Strategy, str]] = {}
    missing = {}
    whole = _chain(config, "cascade", "whole", pools, routers)
    if whole is None:
        missing[CASCADE] = f"No cascade is fitted for these pools: {_MEND} cascade.chain."
    else:
        limits = _limits(config, whole)
        strategy = CascadeStrategy("cascade", whole, pools, prior, patience, limits)
        strategies[CASCADE] = (strategy, f"{_names(whole)}: an answer that does not convince is replaced by the next's")
    early = _chain(config.streaming, "cascade.streaming", "stream", pools, routers)
    if early is None:
        missing[STREAM] = f"No streaming cascade is fitted for these pools: {_MEND} cascade.streaming.chain."
    else:
        _first_tokens_suffice(early)
        probe = _probe_tokens(config, early)
        held = Early(probe, *_race(config.streaming.race, early, routers), _limits(config, early, probe))
        streaming = StreamingCascade("cascade-stream", early, pools, held, prior, patience)
        strategies[STREAM] = (streaming, f"{_names(early)}: judged by the first tokens, before any is sent")
    routed = _routed(config, pools, prior, routers, patience)
    if routed is None:
        missing[ROUTE] = (
            "No cascade router is fitted for these pools: fit one on these models' answers with "
            "`jethro cascade fit-routing` and name its folder in cascade.routing."
        )
    else:
        line = f"{', '.join(routed.router.pools)}: whom next, or whose answer, is decided as they come"
        strategies[ROUTE] = (routed, line)
    return Offered(strategies, missing)


def _limits(config: CascadeConfig, chain: Chain, probe_tokens: int | None = None) -> dict[str, float]:
    """By pool, the prior above which it need not be asked."""
    if not config.skip_hopeless:
        return {}
    found = {level.pool: prior_limit(level, probe_tokens) for level in chain.levels}
    return {pool: limit for pool, limit in found.items() if limit is not None}


def _race(race: RaceConfig | None, chain: Chain, routers: Collection[str]) -> tuple[str | None, Race | None]:
    """The router whose score is borderline or not, and the rule."""
    if race is None:
        return None, None
    router = next(iter(_priors(chain)), race.router)
    _have(router, "cascade.streaming.race.router", routers)
    return router, Race(race.low, race.high, race.wasted_share)


def _chain(
    settings: ChainConfig, key: str, ships: str, pools: Mapping[str, Pool], routers: Collection[str]
) -> Chain | None:
    """The chain of the settings, fit to serve; None where none is named and the one that ships is for other models."""
    if settings.chain is None and settings.levels is None:
        return _shipped(ships, pools, routers)
    if settings.chain is not None:
        where = f"{key}.chain: {settings.chain}"
        chain = load_chain(Path(settings.chain))
    else:
        where = f"{key}.levels"
        specs = [level.model_dump(exclude_none=True) for level in settings.levels or ()]
        chain = chain_of(specs, where, getattr(settings, "probe_tokens", None))
    return _served(chain, where, pools, routers)


def _routed(
    config: CascadeConfig, pools: Mapping[str, Pool], prior: PriorOf, routers: Collection[str], patience: Patience
) -> RoutedCascade | None:
    """The cascade router that is named, fit to serve; else the one that ships, if it is for these models; else None."""
    if config.routing is not None:
        routed = RoutedCascade("cascade-route", load_routing(Path(config.routing)), pools, prior, patience)
        _served(routed.chain, f"cascade.routing: {config.routing}", pools, routers)
        return routed
    with resources.as_file(resources.files("serve_app.cascade") / "lab" / "routing") as folder:
        router = load_routing(folder)
    if not set(router.pools) <= set(pools):
        return None
    routed = RoutedCascade("cascade-route", router, pools, prior, patience)
    return routed if _fits(routed.chain, pools, routers) else None


def _shipped(ships: str, pools: Mapping[str, Pool], routers: Collection[str]) -> Chain | None:
    with resources.as_file(resources.files("serve_app.cascade") / "lab" / ships) as folder:
        chain = load_chain(folder)
    return chain if _fits(chain, pools, routers) else None


def _fits(chain: Chain, pools: Mapping[str, Pool], routers: Collection[str]) -> bool:
    """Whether a chain that ships was fitted on these pools' models, and its priors are offered."""
    served = [pools[level.pool].model if level.pool in pools else "" for level in chain.levels]
    return served == list(chain.models) and set(_priors(chain)) <= set(routers)


def _have(router: str, where: str, routers: Collection[str]) -> None:
    if router not in routers:
        raise ConfigError(
            f"{where}: it wants the score of router {router!r}, which is not offered ({', '.join(routers)}): add it to "
            "routing.offered, or fit the cascade without it"
        )


def _served(chain: Chain, where: str, pools: Mapping[str, Pool], routers: Collection[str]) -> Chain:
    """The chain. Raises ConfigError where the pools are not those it was fitted on, or give too little to judge by."""
    for router in _priors(chain):
        _have(router, where, routers)
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
                f"{where}: level {number} is judged by log-probabilities ({level.signal.name}), which pool "
                f"{level.pool} does not give: set pools.{level.pool}.engine.logprobs if it does, or fit with another "
                "signal"
            )
    return chain


def _first_tokens_suffice(chain: Chain) -> None:
    """Raises ConfigError for a judge that wants further calls: a stream is not held for them."""
    for level in chain.levels:
        needs = level.signal.needs if level.signal is not None else None
        if needs is not None and (needs.samples or needs.verdicts):
            raise ConfigError(
                f"cascade.streaming: pool {level.pool} is judged by further calls to it (samples or verdicts), which "
                "no stream can wait for: fit the chain with signals of log-probabilities and prior"
            )


def _probe_tokens(config: CascadeConfig, chain: Chain) -> int:
    asked, fitted = config.streaming.probe_tokens, chain.probe_tokens
    if asked is None and fitted is None:
        raise ConfigError(
            "cascade.streaming: the chain judges whole answers (probe_tokens is null in it): fit one for first tokens, "
            "or set cascade.streaming.probe_tokens"
        )
    if asked is not None and fitted is not None and asked != fitted:
        logger.warning(
            "cascade.streaming.probe_tokens is %d, but the chain was fitted on %d: probabilities are off", asked, fitted
        )
    return asked or fitted or 1


def _priors(chain: Chain) -> list[str]:
    """Routers whose scores its judges want."""
    return [level.signal.needs.prior for level in chain.levels if level.signal and level.signal.needs.prior]


def _names(chain: Chain) -> str:
    return " -> ".join(level.pool for level in chain.levels)
