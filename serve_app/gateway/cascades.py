"""The cascades of a config: which chain serves each name, or why no chain does."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Final

from serve_app.cascade.artefact import FILE as CHAIN_FILE
from serve_app.cascade.artefact import chain_of, load_chain
from serve_app.cascade.base import Chain, Level, Signal
from serve_app.cascade.routing.router import FILE as ROUTING_FILE
from serve_app.cascade.routing.router import load_routing
from serve_app.cascade.serving.routed import RoutedCascade
from serve_app.cascade.serving.run import Cascade
from serve_app.cascade.serving.skipping import LatencyEstimate, with_prior_limits
from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.cascade.serving.streaming import Race, StreamingCascade
from serve_app.cascade.signals.specs import parts_of, with_prior_of
from serve_app.cascade.signals.tokens import RecordedConfidence
from serve_app.config.strategies import CascadeConfig, ChainConfig, RaceConfig
from serve_app.errors import ConfigError, DependencyError
from serve_app.gateway.priors import PriorRouters
from serve_app.pools.base import Pool
from serve_app.routing.default import guess_note, guess_statement
from serve_app.routing.reference import split_reference
from serve_app.routing.registry import shipped_version
from serve_app.strategy import Strategy
from serve_app.types import Price

CASCADE: Final = "jethro-cascade"
STREAM: Final = "jethro-cascade-stream"
ROUTE: Final = "jethro-cascade-route"
_REMEDY: Final = "fit one on these models' answers with `jethro cascade fit` and name its folder in"

logger = logging.getLogger("jethro.gateway")


@dataclass(frozen=True, slots=True)
class AvailableCascades:
    """Strategies by name, each with a one-line description; `missing` has the reason for every other name.

    `statements`: for the operator, of cascades that read a router which does not know the models.
    """

    strategies: Mapping[str, tuple[Strategy, str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    statements: Sequence[str] = ()


def load_cascades(config: CascadeConfig, pools: Mapping[str, Pool], priors: PriorRouters) -> AvailableCascades:
    """The cascades that the config has over these pools, with the scores of `priors`.

    Raises ConfigError for a configured chain that is invalid or cannot be served.
    """
    latency = LatencyEstimate(config.min_remaining_s)
    strategies: dict[str, tuple[Strategy, str]] = {}
    missing = {}
    whole = _chain(config, "cascade", "whole", pools, priors)
    if whole is None:
        missing[CASCADE] = f"No cascade is fitted for these pools: {_REMEDY} cascade.chain."
    else:
        whole = replace(whole, probe_tokens=None)  # whole answers are checked, whatever the chain was fitted on
        whole = with_prior_limits(whole) if config.skip_hopeless else whole
        strategy = CascadeStrategy("cascade", whole, pools, priors.score, latency)
        line = f"{_names(whole)}: an answer of low confidence is replaced by the next model's"
        strategies[CASCADE] = (strategy, line)
    early = _chain(config.streaming, "cascade.streaming", "stream", pools, priors)
    if early is None:
        missing[STREAM] = f"No streaming cascade is fitted for these pools: {_REMEDY} cascade.streaming.chain."
    else:
        _check_first_tokens_suffice(early)
        early = replace(early, probe_tokens=_probe_tokens(config, early))
        early = with_prior_limits(early) if config.skip_hopeless else early
        race = _race(config.streaming.race, early, priors)
        streaming = StreamingCascade("cascade-stream", early, pools, priors.score, latency, race)
        strategies[STREAM] = (streaming, f"{_names(early)}: checked by the first tokens, before any is sent")
    routed = _routed(config, pools, priors, latency)
    if routed is None:
        missing[ROUTE] = (
            "No cascade router is fitted for these pools: fit one on these models' answers with "
            "`jethro cascade fit-routing` and name its folder in cascade.routing."
        )
    else:
        line = f"{', '.join(routed.routing.pools)}: after each answer, whether to stop or which model is next"
        strategies[ROUTE] = (routed, line)
    made = [strategy for strategy, _ in strategies.values() if isinstance(strategy, Cascade)]
    statements = [said for cascade in made if (said := _unknowing(cascade, pools, priors)) is not None]
    for said in statements:
        logger.warning("%s", said)
    return AvailableCascades(strategies, missing, statements)


def _unknowing(cascade: Cascade, pools: Mapping[str, Pool], priors: PriorRouters) -> str | None:
    """Have the cascade's decisions say that a router which it reads does not know the models; for the operator too."""
    read = [*_priors(cascade.chain), *([] if cascade.router is None else [cascade.router])]
    models = pools["small"].model, pools["large"].model
    for found in (priors.router(reference) for reference in read):
        if found is not None and (note := guess_note(found, models)) is not None:
            cascade.warning = f"{note}, and the cascade reads it"
            return f"jethro-{cascade.name} reads a router's score: {guess_statement(found, models)}, and fit again"
    return None


def _race(race: RaceConfig | None, chain: Chain, priors: PriorRouters) -> Race | None:
    """The rule, by the score of the router that the chain reads already, or else of the configured one."""
    if race is None:
        return None
    router = next(iter(_priors(chain)), race.router)
    priors.require(router, "cascade.streaming.race.router")
    return Race(router, race.low, race.high, race.wasted_share)


def _chain(
    settings: ChainConfig, key: str, ships: str, pools: Mapping[str, Pool], priors: PriorRouters
) -> Chain | None:
    """The chain of the settings, ready to serve; None if none is configured and the shipped one is for other models."""
    if settings.chain is None and settings.levels is None:
        with resources.as_file(resources.files("serve_app.cascade") / "lab" / ships) as folder:
            chain = load_chain(folder)
        levels = [replace(at, signal=at.signal and _shipped_prior(at.signal)) for at in chain.levels]
        chain = replace(chain, levels=tuple(levels))
        return chain if _fits(chain, pools, priors) else None
    if settings.chain is not None:
        where = f"{key}.chain: {Path(settings.chain) / CHAIN_FILE}"
        with _named(f"{key}.chain"):
            chain = load_chain(Path(settings.chain))
    else:
        where = f"{key}.levels"
        specs = [level.model_dump(exclude_none=True) for level in settings.levels or ()]
        chain = chain_of(specs, where, getattr(settings, "probe_tokens", None))
    return _served(chain, where, pools, priors)


def _routed(
    config: CascadeConfig, pools: Mapping[str, Pool], priors: PriorRouters, latency: LatencyEstimate
) -> RoutedCascade | None:
    """The configured cascade router, ready to serve; else the shipped one, if it is for these models; else None."""
    if config.routing is not None:
        with _named("cascade.routing"):
            fitted = load_routing(Path(config.routing))
        routed = RoutedCascade("cascade-route", fitted, pools, priors.score, latency)
        where = f"cascade.routing: {Path(config.routing) / ROUTING_FILE}"
        _served(routed.chain, where, pools, priors)
        if fitted.expected.get("cost_usd") and not any(has_price(pools[name].price) for name in fitted.pools):
            raise ConfigError(
                f"{where}: it was fitted to weigh quality against cost, and none of its pools has a price: set "
                f"pools.NAME.price of {' and '.join(fitted.pools)} as at the fit"
            )
        return routed
    with resources.as_file(resources.files("serve_app.cascade") / "lab" / "routing") as folder:
        router = load_routing(folder)
    router = replace(router, signals={p: s and _shipped_prior(s) for p, s in router.signals.items()})
    if not set(router.pools) <= set(pools):
        return None
    routed = RoutedCascade("cascade-route", router, pools, priors.score, latency)
    return routed if _fits(routed.chain, pools, priors) else None


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors name the config's key, as well as the file."""
    try:
        yield
    except (ConfigError, DependencyError) as e:
        raise type(e)(f"{key}: {e}") from e


def has_price(price: Price) -> bool:
    """Whether tokens cost anything."""
    return bool(price.input_usd_per_million or price.output_usd_per_million)


def _shipped_prior(signal: Signal) -> Signal:
    """The signal of a shipped cascade with the router that ships with it: a trained one may have the same name."""
    name = signal.needs.prior
    version = None if name is None else shipped_version(name)
    return signal if version is None else with_prior_of(signal, f"{name}@{version}")


def _fits(chain: Chain, pools: Mapping[str, Pool], priors: PriorRouters) -> bool:
    """Whether a shipped chain was fitted on these pools' models, and its routers are available."""
    served = [pools[level.pool].model if level.pool in pools else "" for level in chain.levels]
    return served == list(chain.models) and all(priors.available(router) for router in _priors(chain))


def _require_prior(level: Level, where: str, priors: PriorRouters) -> None:
    router = level.signal.needs.prior if level.signal is not None else None
    if router is None:
        return
    priors.require(router, where)
    if split_reference(router)[1] is None:
        logger.warning(
            "%s: reads the score of router %s in whatever version serves, as the fit named none; collect and fit "
            "again, so that the cascade keeps the version it was fitted with",
            where,
            router,
        )


def _served(chain: Chain, where: str, pools: Mapping[str, Pool], priors: PriorRouters) -> Chain:
    """The chain. Raises ConfigError if the pools are not those it was fitted on, or lack what its signals need."""
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
        _require_prior(level, f"{where}: levels[{number}].signal", priors)
        if level.signal is not None and any(isinstance(p, RecordedConfidence) for p in parts_of(level.signal)):
            raise ConfigError(
                f"{where}: level {number} was fitted on recorded confidences, which no served answer has: fit with "
                "--signals of answers (logprobs, ...); if the confidences are such a signal, name it in --confidence-is"
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
