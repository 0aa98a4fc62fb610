""""""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.cascade.serving.streaming import StreamingCascade
from serve_app.config import load
from serve_app.config.strategies import CascadeConfig
from serve_app.config.tree import Config
from serve_app.errors import ConfigError, ModelNotFound
from serve_app.gateway.cascades import CASCADE, ROUTE, STREAM, AvailableCascades, load_cascades
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.priors import PriorRouters
from serve_app.routing.registry import load_router
from serve_app.routing.serving.served import ServedRouter
from serve_app.types import Capabilities
from tests.routing.fakes import FakePool

CALIBRATOR = {"kind": "logistic", "slope": 1.0, "bias": 0.0}
LEVELS = [
    {"pool": "small", "signal": {"name": "min_logprob"}, "calibrator": CALIBRATOR, "threshold": 0.8},
    {"pool": "large"},
]


def pools(**models: str) -> dict[str, FakePool]:
    found = {name: FakePool(name) for name in ("small", "large")}
    for name, model in models.items():
        found[name].model = model
    return found


def offer(
    config: dict[str, Any], served: dict[str, FakePool] | None = None, routers: tuple[str, ...] = ("complexity",)
) -> AvailableCascades:
    there = {name: ServedRouter(load_router("complexity"), name) for name in routers}
    settings = CascadeConfig.model_validate(config)
    return load_cascades(settings, served or pools(), PriorRouters(lambda: there))  # type: ignore[arg-type]


LAB = {"small": "jlab-small", "large": "jlab-large"}


def test_the_chains_that_ship_serve_the_labs_models() -> None:
    found = offer({}, pools(**LAB))
    assert set(found.strategies) == {CASCADE, STREAM, ROUTE} and not found.missing
    streaming = found.strategies[STREAM][0]
    assert isinstance(streaming, StreamingCascade) and streaming.chain.probe_tokens == 1


@pytest.mark.parametrize("served", [pools(), pools(small="jlab-small")])
def test_other_models_have_no_cascade_and_are_told_how_to_fit_one(served: dict[str, FakePool]) -> None:
    found = offer({}, served)
    assert not found.strategies
    assert "jethro cascade fit" in found.missing[CASCADE] and "cascade.chain" in found.missing[CASCADE]
    assert "cascade.streaming.chain" in found.missing[STREAM]


def test_levels_may_stand_in_the_config() -> None:
    found = offer({"levels": LEVELS, "streaming": {"levels": LEVELS, "probe_tokens": 3}})
    assert set(found.strategies) == {CASCADE, STREAM}
    streaming = found.strategies[STREAM][0]
    assert isinstance(streaming, StreamingCascade) and streaming.chain.probe_tokens == 3


def test_a_race_wants_a_router() -> None:
    streaming = {"levels": LEVELS, "probe_tokens": 3, "race": {"low": 0.2, "router": "mine"}}
    found = offer({"streaming": streaming}, routers=("mine",)).strategies[STREAM][0]
    assert isinstance(found, StreamingCascade) and found.race is not None
    assert (found.race.router, found.race.low, found.race.high) == ("mine", 0.2, 0.7)
    with pytest.raises(ConfigError, match=r"race.router: .*'mine'.*routing.offered"):
        offer({"streaming": streaming})


def broken(change: dict[str, Any], level: int = 0) -> list[dict[str, Any]]:
    levels = [dict(spec) for spec in LEVELS]
    levels[level] |= change
    return levels


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (broken({"pool": "tiny"}), r"cascade.levels: level 0 .*'tiny', .*small, large"),
        (broken({"signal": {"name": "luck"}}), r"cascade.levels: levels\[0\].signal: .*'luck'"),
        (broken({"threshold": None}), "signal, calibrator and threshold"),
        (broken({"signal": {"name": "prior", "router": "mine"}}), "router 'mine'"),
        (broken({"pool": "small"}, 1), "twice"),
    ],
)
def test_mistakes_are_told_with_key_and_mend(levels: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        offer({"levels": levels})


def test_log_probabilities_that_a_pool_does_not_give() -> None:
    served = pools()
    served["small"].capabilities = Capabilities(logprobs=False)
    with pytest.raises(ConfigError, match=r"\(min_logprob\), .*pool small"):
        offer({"levels": LEVELS}, served)


def test_a_chain_of_other_models_or_of_no_file(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "serve_app" / "cascade" / "lab" / "whole"
    with pytest.raises(ConfigError, match=r"level 0 .*'jlab-small', .*pools.small.model .*'m-small'"):
        offer({"chain": str(shipped)})
    with pytest.raises(ConfigError, match=r"chain.json: no such file"):
        offer({"chain": str(tmp_path)})


def test_whole_answers_are_no_first_tokens() -> None:
    with pytest.raises(ConfigError, match="probe_tokens"):
        offer({"streaming": {"levels": LEVELS}})


@pytest.mark.parametrize("signal", ["agreement", "self_verification"])
def test_a_stream_does_not_wait_for_further_calls(signal: str) -> None:
    with pytest.raises(ConfigError, match=r"cascade.streaming: .*pool small .*further calls"):
        offer({"streaming": {"levels": broken({"signal": {"name": signal}}), "probe_tokens": 2}})


def test_another_probe_than_the_fitted_is_said(caplog: pytest.LogCaptureFixture) -> None:
    offer({"streaming": {"probe_tokens": 9}}, pools(**LAB))
    assert "probabilities are off" in caplog.text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"chain": "a", "levels": LEVELS}, "contradict"),
        ({"levels": LEVELS[:1]}, "at least two"),
        ({"streaming": {"race": {"low": 0.8, "high": 0.2}}}, "band"),
        ({"chains": "a"}, "extra_forbidden"),
    ],
)
def test_the_tree_is_strict(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CascadeConfig.model_validate(config)


def test_settings_reach_the_tree_from_the_environment() -> None:
    levels = json.dumps(LEVELS)
    config = load("lab", env={"JETHRO__CASCADE__LEVELS": levels, "JETHRO__CASCADE__STREAMING__PROBE_TOKENS": "2"})
    assert config.cascade.levels is not None and config.cascade.levels[0].threshold == 0.8
    assert config.cascade.streaming.probe_tokens == 2
    with pytest.raises(ConfigError, match="streaming"):
        load("lab", env={"JETHRO__CASCADE__STREAMIN__RACE": "null"})


def catalogue(**cascade: Any) -> Catalogue:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    tree = {name: {"model": f"m-{name}", "engine": engine} for name in pools()}
    return Catalogue.from_config(Config.model_validate({"pools": tree, "cascade": cascade}), pools())


def test_a_fitted_cascade_is_listed_and_answers_to_its_name() -> None:
    names = catalogue(levels=LEVELS)
    assert names.resolve(CASCADE).name == "cascade"
    listed = {entry.id: entry.description for entry in names.models()}
    assert listed[CASCADE].startswith("small -> large") and STREAM not in listed


def test_a_cascade_that_is_not_fitted_is_neither_listed_nor_unknown() -> None:
    names = catalogue()
    assert CASCADE not in {entry.id for entry in names.models()}
    with pytest.raises(ModelNotFound, match=r"jethro cascade fit"):
        names.resolve(CASCADE)
    with pytest.raises(ModelNotFound, match="does not exist"):
        names.resolve("jethro-cascades")
