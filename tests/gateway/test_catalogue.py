""""""

from pathlib import Path

import pytest

from serve_app.config.tree import Config, RoutingConfig
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError, ModelNotFound, RequestError
from serve_app.gateway.catalogue import Catalogue
from serve_app.routing.artefact import Registered, save_registered
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.kinds.random import RandomRouter
from serve_app.routing.registry import load_router
from serve_app.routing.serving.loading import default_threshold
from serve_app.routing.strategy import DirectStrategy, RouteStrategy
from tests.data.samples import sums
from tests.routing.fakes import FakePool, query


def pools() -> dict[str, FakePool]:
    return {"small": FakePool("small"), "large": FakePool("large"), "other": FakePool("other")}


def config(**routing: object) -> Config:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    tree = {name: {"model": f"m-{name}", "engine": engine} for name in pools()}
    return Config.model_validate({"pools": tree, "routing": routing})


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complexity router trained on the answers of m-small and m-large."""
    folder = tmp_path_factory.mktemp("artefact") / "mine"
    router = ComplexityRouter().fit(sums(400, seed=1))
    held = sums(200, seed=2)
    calibration = Calibration.of(router.score(held.queries), held)
    threshold = Threshold.for_drop(calibration, 0.01)
    save_registered(folder, router, calibration, threshold, ("m-small", "m-large"), {"n": 400}, {"auc": 1.0})
    return folder


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_config(config(router="random", threshold=0.3), pools())


def test_jethro_is_the_configured_default(catalogue: Catalogue) -> None:
    for name in ("jethro", "jethro-route"):
        strategy = catalogue.resolve(name)
        assert isinstance(strategy, RouteStrategy)
        assert strategy.threshold == 0.3 and strategy.version == "random-0@0.3"


def aliased(aliases: dict[str, str]) -> Catalogue:
    tree = config(router="random", threshold=0.3)
    server = tree.server.model_copy(update={"model_aliases": aliases})
    return Catalogue.from_config(tree.model_copy(update={"server": server}), pools())


def test_a_name_that_does_not_exist_may_be_an_alias() -> None:
    catalogue = aliased({"*": "m-other", "claude-*": "jethro", "claude-haiku": "m-small", "m-large": "m-small"})
    assert catalogue.resolve("claude-haiku") is catalogue.resolve("m-small")
    assert catalogue.resolve("m-large") is not catalogue.resolve("m-small")  # it exists
    assert catalogue.resolve("claude-opus") is catalogue.resolve("m-other")  # the first pattern that matches
    assert isinstance(catalogue.resolve("router-random-0.5"), RouteStrategy)
    listed = {entry.id: entry.description for entry in catalogue.models()}
    assert listed["claude-haiku"] == "an alias of m-small" and "claude-*" not in listed


@pytest.mark.parametrize("target", ["m-none", "claude-3", "router-none-0.5", "router-random-2"])
def test_an_alias_of_nothing(target: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.model_aliases: claude-"):
        aliased({"claude-*": target})


@pytest.mark.parametrize("target", ["jethro-stream-later", "m-small:later"])
def test_an_alias_of_what_may_come_later(target: str) -> None:
    with pytest.raises(ModelNotFound):
        aliased({"*": target}).resolve("claude-3")


def test_a_pools_model_id_bypasses_the_decision(catalogue: Catalogue) -> None:
    for name in pools():
        strategy = catalogue.resolve(f"m-{name}")
        assert isinstance(strategy, DirectStrategy) and strategy.pool.name == name


@pytest.mark.parametrize("text", ["0", "1", "0.11593", "1e-3"])
async def test_routellms_form(catalogue: Catalogue, text: str) -> None:
    strategy = catalogue.resolve(f"router-random-{text}")
    assert isinstance(strategy, RouteStrategy)
    assert strategy.threshold == float(text) and strategy.router.name == "random"
    assert catalogue.resolve(f"router-random-{text}") is strategy
    assert (await strategy.decide(query(), "d")).pool == (
        "large" if text in ("0", "1e-3") else (await strategy.decide(query(), "e")).pool
    )


@pytest.mark.parametrize("text", ["2", "-1", "nan", "inf", "half", "0.5x", "-0.1"])
def test_a_bad_threshold_is_a_400_that_says_what_to_give(catalogue: Catalogue, text: str) -> None:
    with pytest.raises(RequestError, match="not a threshold") as raised:
        catalogue.resolve(f"router-random-{text}")
    assert raised.value.status == 400 and raised.value.param == "model"


@pytest.mark.parametrize(
    "model", ["router-nobody-0.5", "gpt-4", "", "router-", "router-random", "router-random-", "x" * 9999]
)
def test_unknown_models_are_a_404(catalogue: Catalogue, model: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        catalogue.resolve(model)
    assert raised.value.param == "model" and len(raised.value.message) < 500


def test_cache_of_thresholds_is_bounded(catalogue: Catalogue) -> None:
    for number in range(500):
        catalogue.resolve(f"router-random-0.{number:04d}")
    assert len(catalogue._now.made) == 128


def test_listing_names_what_resolves(catalogue: Catalogue) -> None:
    listed = [m.id for m in catalogue.models()]
    assert listed[:6] == ["jethro", "jethro-route", "jethro-orchestrate", "m-small", "m-large", "m-other"]
    assert any(name.startswith("router-random-") for name in listed) and len(set(listed)) == len(listed)
    for name in listed:
        catalogue.resolve(name)


async def test_an_artefacts_folder_serves_with_its_own_threshold_and_outlook(
    artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = Catalogue.from_config(config(router=str(artefact)), pools())
    assert not caplog.records
    registered = load_router(str(artefact))
    easy, hard = query("what is 3 + 4?"), query("what is 345 + 678?")
    strategy = catalogue.resolve("jethro")
    weak, strong = await strategy.decide(easy, "a"), await strategy.decide(hard, "b")
    assert (weak.pool, strong.pool) == ("small", "large")
    assert weak.policy_version == f"{registered.version}@{registered.threshold:.6g}"
    assert weak.expected["small"]["quality"] == 1.0 and strong.expected["small"]["quality"] == 0.0
    assert strong.expected["large"]["cost_usd"] == pytest.approx((10 * 1 + 2 * 10) / 1e6)
    assert strong.features and "bias" in strong.features


async def test_serving_other_models_than_it_was_trained_on_is_said_loudly(
    artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = pools()
    served["large"].model = "m-new"
    tree = config(router=str(artefact)).model_dump()
    tree["pools"]["large"]["model"] = "m-new"
    catalogue = Catalogue.from_config(Config.model_validate(tree), served)
    assert "m-small and m-new" in caplog.text
    for name in ("jethro", "router-complexity-0.5"):
        decision = await catalogue.resolve(name).decide(query(), "d")
        assert decision.expected == {}
        assert decision.warning == "router complexity was not trained on these models: its score is a guess"
    (statement,) = catalogue.statements
    assert (
        "router complexity was trained on the answers of m-small and m-large, but serves m-small and m-n" in statement
    )


async def test_without_a_router_for_the_models_a_share_is_served_and_said(tmp_path: Path) -> None:
    catalogue = Catalogue.from_config(config(registry=str(tmp_path)), pools())
    chosen = await catalogue.resolve("jethro").decide(query(), "d")
    assert chosen.router == "random" and chosen.threshold == 0.5
    assert chosen.warning is not None and chosen.warning.startswith("no router trained on these models is chosen")
    named = await catalogue.resolve("router-random-0.5").decide(query(), "d")
    assert named.warning is None, "who names it knows what it does"
    assert len(catalogue.statements) == 1


async def test_a_router_that_knows_the_models_needs_no_warning(artefact: Path) -> None:
    catalogue = Catalogue.from_config(config(router=str(artefact)), pools())
    assert (await catalogue.resolve("jethro").decide(query(), "d")).warning is None
    assert catalogue.statements == []


def test_thresholds_of_the_config(artefact: Path) -> None:
    registered = load_router(str(artefact))
    assert registered.calibration is not None
    curve = registered.calibration.curve()
    for routing, wanted in (
        (RoutingConfig(), registered.threshold),
        (RoutingConfig(threshold=0.25), 0.25),
        (RoutingConfig(strong_share=0.2), Threshold.for_share(registered.calibration, 0.2).value),
        (RoutingConfig(max_quality_drop=0.1), Threshold.for_drop(registered.calibration, 0.1).value),
    ):
        assert default_threshold(routing, registered) == wanted
    assert curve.weak < curve.strong


def test_random_needs_no_data_for_a_share_but_for_a_quality() -> None:
    registered = Registered(RandomRouter(), 0.5, "random-0", uniform=True)
    assert default_threshold(RoutingConfig(router="random", strong_share=0.3), registered) == 0.7
    with pytest.raises(ConfigError, match="no calibration data"):
        default_threshold(RoutingConfig(router="random", max_quality_drop=0.1), registered)


def test_unknown_router_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nope'.*random"):
        Catalogue.from_config(config(router="nope"), pools())


def alone() -> tuple[Config, dict[str, FakePool]]:
    tree = config().model_dump(mode="json")
    del tree["pools"]["large"], tree["routing"]
    return Config.model_validate({**tree, "small_only": True}), {n: p for n, p in pools().items() if n != "large"}


async def test_with_the_small_model_alone_every_query_goes_there_and_the_decision_says_so() -> None:
    settings, of = alone()
    catalogue = Catalogue.from_config(settings, of)
    for name in ("jethro", "jethro-route"):
        decision = await catalogue.resolve(name).decide(query("prove that there are infinitely many primes"), "d")
        assert (decision.pool, decision.strategy, decision.score) == ("small", "direct", None)
        assert decision.reason == "this endpoint has the small model alone (small_only)"
        assert decision.warning is None
    direct = await catalogue.resolve("m-other").decide(query(), "d")
    assert (direct.pool, direct.reason) == ("other", "the request names m-other")


def test_with_the_small_model_alone_no_router_or_cascade_is_listed_or_found() -> None:
    catalogue = Catalogue.from_config(*alone())
    listed = [entry.id for entry in catalogue.models()]
    assert listed == ["jethro", "jethro-route", "jethro-orchestrate", "m-small", "m-other"]
    for name in ("router-random-0.5", "jethro-cascade", "jethro-route-all"):
        with pytest.raises(ModelNotFound) as raised:
            catalogue.resolve(name)
        assert "router-NAME" not in str(raised.value)
    assert catalogue.statements == []
