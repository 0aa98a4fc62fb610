"""The routers that cascades read: pinned to the version of the fit, whatever serves."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from serve_app.config.strategies import CascadeConfig
from serve_app.errors import ConfigError
from serve_app.gateway.cascades import CASCADE, STREAM, load_cascades
from serve_app.gateway.priors import PriorRouters
from serve_app.routing.registry import load_router, shipped_version
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.types import Message, Query
from tests.gateway.test_cascades import CALIBRATOR, LAB, pools

SHIPPED = f"complexity@{shipped_version('complexity')}"
QUERY = Query((Message("user", "What is 17 * 23 + 4?"),))


def served(version: str, name: str = "complexity", seed: int = 0) -> ServedRouter:
    """A router whose score depends on its seed."""
    return ServedRouter(replace(load_router("random", seed=seed), version=version, name=name), name)


async def test_a_version_is_kept_while_another_serves() -> None:
    now = {"mine": served("a-1", "mine", seed=1)}
    priors = PriorRouters(lambda: now)
    priors.require("mine@a-1", "cascade.chain")
    first = await priors.score("mine@a-1", QUERY)
    now["mine"] = served("a-2", "mine", seed=2)
    assert await priors.score("mine@a-1", QUERY) == first
    assert await priors.score("mine", QUERY) == await now["mine"].score(QUERY) != first


async def test_a_version_that_does_not_serve_is_loaded_once() -> None:
    loaded: list[str] = []

    def load(reference: str) -> ServedRouter:
        loaded.append(reference)
        return served("a-1", "mine", seed=1)

    priors = PriorRouters(lambda: {"mine": served("a-2", "mine", seed=2)}, load)
    for _ in range(2):
        priors.require("mine@a-1", "cascade.chain")
    assert loaded == ["mine@a-1"]
    assert await priors.score("mine@a-1", QUERY) == await served("a-1", seed=1).score(QUERY)


def test_a_version_that_is_served_under_another_name_is_the_same_router() -> None:
    def load(reference: str) -> ServedRouter:
        raise AssertionError(reference)

    PriorRouters(lambda: {"renamed": served("a-1", "renamed")}, load).require("mine@a-1", "")


def test_a_version_that_is_gone_is_named_with_key_and_remedy() -> None:
    def load(reference: str) -> ServedRouter:
        raise ConfigError("router mine has no version 'a-1'")

    for priors in (PriorRouters(dict, load), PriorRouters(lambda: {"mine": served("a-2", "mine")})):
        with pytest.raises(ConfigError, match=r"cascade.chain: x.json: .*mine@a-1.*fit again"):
            priors.require("mine@a-1", "cascade.chain: x.json")
        assert not priors.available("mine@a-1")


async def test_a_router_that_fails_gives_no_score() -> None:
    one = served("a-1", "mine")

    async def fails(query: Query) -> float:
        raise ScoringFailed("late")

    one.score = fails  # type: ignore[method-assign]
    assert await PriorRouters(lambda: {"mine": one}).score("mine", QUERY) is None
    assert await PriorRouters(dict).score("mine", QUERY) is None


def chain_of(router: str) -> dict[str, Any]:
    level = {"pool": "small", "signal": {"name": "prior", "router": router}, "calibrator": CALIBRATOR, "threshold": 0.5}
    return {"levels": [level, {"pool": "large"}]}


def test_a_chain_without_a_version_is_served_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Artefacts of earlier versions name a router alone."""
    there = {"complexity": ServedRouter(load_router("complexity"), "complexity")}
    with caplog.at_level(logging.WARNING, "jethro.gateway"):
        found = load_cascades(
            CascadeConfig.model_validate(chain_of("complexity")), pools(), PriorRouters(lambda: there)
        )  # type: ignore[arg-type]
    assert CASCADE in found.strategies
    assert "cascade.levels: levels[0].signal: reads the score of router complexity in whatever version" in caplog.text
    caplog.clear()
    load_cascades(CascadeConfig.model_validate(chain_of(SHIPPED)), pools(**LAB), PriorRouters(lambda: there))  # type: ignore[arg-type]
    assert caplog.text == ""


async def test_a_chain_that_reads_a_router_of_other_models_says_so(caplog: pytest.LogCaptureFixture) -> None:
    there = {"complexity": ServedRouter(load_router("complexity"), "complexity")}
    found = load_cascades(CascadeConfig.model_validate(chain_of(SHIPPED)), pools(), PriorRouters(lambda: there))  # type: ignore[arg-type]
    decision = await found.strategies[CASCADE][0].decide(QUERY, "d")
    assert decision.warning == (
        "router complexity was not trained on these models: its score is a guess, and the cascade reads it"
    )
    (statement,) = found.statements
    assert statement in caplog.text
    assert "jethro-cascade reads a router's score: router complexity was trained on the answers of jlab-sm" in statement


async def test_a_race_by_a_router_of_other_models_says_so() -> None:
    there = {"complexity": ServedRouter(load_router("complexity"), "complexity")}
    level = {"pool": "small", "signal": {"name": "min_logprob"}, "calibrator": CALIBRATOR, "threshold": 0.5}
    streaming = {"levels": [level, {"pool": "large"}], "probe_tokens": 4, "race": {}}
    config = CascadeConfig.model_validate({"streaming": streaming})
    found = load_cascades(config, pools(), PriorRouters(lambda: there))  # type: ignore[arg-type]
    assert "was not trained on these models" in str((await found.strategies[STREAM][0].decide(QUERY, "d")).warning)


async def test_shipped_chains_read_the_shipped_router_though_a_trained_one_has_its_name() -> None:
    shipped = ServedRouter(load_router("complexity"), "complexity")
    other = {"complexity": served("trained-1")}
    asked: list[str] = []

    def load(reference: str) -> ServedRouter:
        asked.append(reference)
        return shipped

    priors = PriorRouters(lambda: other, load)
    found = load_cascades(CascadeConfig(), pools(**LAB), priors)  # type: ignore[arg-type]
    assert set(asked) == {SHIPPED} and not found.missing
    strategy: Any = found.strategies[CASCADE][0]
    prior = strategy.chain.levels[0].signal.needs.prior
    assert prior == SHIPPED and await priors.score(prior, QUERY) == await shipped.score(QUERY)
    without = load_cascades(CascadeConfig(), pools(**LAB), PriorRouters(lambda: other))  # type: ignore[arg-type]
    assert CASCADE in without.missing
