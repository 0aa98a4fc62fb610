""""""

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.config.strategies import MultiPoolConfig
from serve_app.config.tree import Config
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.gateway.catalogue import Catalogue
from serve_app.routing.artefact import Registered, save_registered
from serve_app.routing.estimate import Estimate
from serve_app.routing.kinds.estimator import EstimatorRouter
from serve_app.routing.multi_pool import route_all
from serve_app.routing.serving.batching import Act, ScoringThread
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.types import Price, Query
from tests.data.samples import sums
from tests.routing.fakes import FakePool, query

CONFIG = MultiPoolConfig(quality_usd=0.01)
MODELS = ("m-small", "m-large")


def estimates(models: dict[str, str], call: Any = None, timeout_s: float = 1.0) -> ServedRouter:
    async def estimated(query: Query, act: Act) -> Estimate:
        return one(tuple(models))

    router = EstimatorRouter()
    router.models_ = models
    return ServedRouter(Registered(router, 0.5, "v1"), call=call or estimated, timeout_s=timeout_s)


def one(pools: tuple[str, ...], rows: int = 1) -> Estimate:
    array = np.arange(1.0, rows * len(pools) + 1).reshape(rows, len(pools))
    return Estimate(pools, array, array / 10, array * 100, array * 10)


async def test_an_estimate_that_is_late_or_fails_is_a_failure_in_few_words() -> None:
    async def late(query: Query, act: Act) -> Estimate:
        await asyncio.sleep(60)
        raise AssertionError

    async def broken(query: Query, act: Act) -> Estimate:
        raise ValueError("broken")

    for call, message in ((late, "in time"), (broken, "ValueError")):
        with pytest.raises(ScoringFailed, match=message):
            await estimates({}, call, 0.01).estimate(query())


def test_only_pools_with_the_models_learned_of_take_part(caplog: pytest.LogCaptureFixture) -> None:
    pools = {name: FakePool(name) for name in ("small", "middle", "large")}
    with caplog.at_level(logging.WARNING, "jethro.routing"):
        made = route_all(CONFIG, estimates({"small": "m-small", "middle": "old", "large": "m-large"}), pools)
    assert made is not None and "m-middle" in caplog.text


@pytest.mark.parametrize("found", [None, estimates({}), estimates({"small": "m-small"})])
def test_without_an_estimate_of_large_there_is_no_strategy(found: ServedRouter | None) -> None:
    assert route_all(CONFIG, found, {n: FakePool(n) for n in ("small", "large")}) is None


class Estimator:
    """Estimates by length; notes the batches."""

    name = "fake"
    placement = "batched"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, queries: list[Query]) -> np.ndarray:
        return np.zeros(len(queries))

    def estimate(self, queries: list[Query]) -> Estimate:
        self.batches.append(len(queries))
        lengths = np.array([[float(len(q.text))] for q in queries])
        return Estimate(("large",), lengths, lengths, lengths, lengths)


async def test_the_scoring_thread_estimates_in_batches_and_gives_each_its_own() -> None:
    thread, router = ScoringThread(max_batch=8), Estimator()
    try:
        asked = [query("x" * n) for n in range(1, 20)]
        estimating = [thread.call(router, q, "estimate") for q in asked]  # type: ignore[arg-type]
        found = await asyncio.gather(*estimating, thread.call(router, asked[0], "score"))  # type: ignore[arg-type]
    finally:
        thread.close()
    assert [e.quality.tolist() for e in found[:-1]] == [[[float(n)]] for n in range(1, 20)]
    assert found[-1] == 0.0 and max(router.batches) > 1


def test_an_estimate_counts_cost_columns_and_rows() -> None:
    estimate = one(("a", "b", "c"), rows=2)
    cost = estimate.cost_usd({"a": Price(1, 2), "b": Price(), "c": Price(0, 10)})
    np.testing.assert_allclose(cost, [[120e-6, 0, 300e-6], [480e-6, 0, 600e-6]])
    only = estimate.only({"c", "a", "zzz"})
    assert only.pools == ("a", "c") and only.quality.tolist() == [[1, 3], [4, 6]]
    assert estimate.row(1).quality.tolist() == [[4, 5, 6]]
    with pytest.raises(ValueError, match="std"):
        Estimate(("a",), np.zeros((2, 1)), np.zeros((1, 1)), np.zeros((2, 1)), np.zeros((2, 1)))


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An estimator trained on the answers of m-small and m-large, calibrated."""
    folder = tmp_path_factory.mktemp("artefact") / "estimator"
    data = sums(200, seed=1)
    router = EstimatorRouter().fit(data)
    calibration = Calibration.of(router.score(data.queries), data)
    save_registered(
        folder, router, calibration, Threshold.for_share(calibration, 0.5), MODELS, {"n": 200}, {"auc": 1.0}
    )
    return folder


async def test_a_router_that_estimates_is_offered_for_all_pools(artefact: Path) -> None:
    pools = {"small": FakePool("small"), "large": FakePool("large")}
    pools["large"].price = Price(20.0, 200.0)
    catalogue = Catalogue.from_config(tree(str(artefact), {"quality_usd": 0.1}), pools)
    listed = [model.id for model in catalogue.models()]
    assert "jethro-route-all" in listed
    strategy = catalogue.resolve("jethro-route-all")
    easy, hard = [await strategy.decide(query(text), "d1") for text in ("what is 3 + 4?", "what is 345 + 678?")]
    assert (easy.pool, hard.pool) == ("small", "large")
    assert hard.expected["large"]["quality"] > hard.expected["small"]["quality"] + 0.5
    assert "jethro-route-all" not in [m.id for m in Catalogue.from_config(tree(str(artefact), None), pools).models()]


def test_a_router_that_does_not_estimate_is_refused() -> None:
    pools = {"small": FakePool("small"), "large": FakePool("large")}
    with pytest.raises(ConfigError, match="'estimator'"):
        Catalogue.from_config(tree("random", {"quality_usd": 1e-5}, threshold=0.5), pools)


def test_without_any_price_quality_is_weighed_against_nothing(artefact: Path) -> None:
    free = {"small": FakePool("small"), "large": FakePool("large")}
    for pool in free.values():
        pool.price = Price()
    with pytest.raises(ConfigError, match=r"pools\.\*\.price: no pool has one.*set pools\.NAME\.price"):
        Catalogue.from_config(tree(str(artefact), {"quality_usd": 0.1}), free)


def tree(router: str, multi_pool: dict[str, float] | None, **routing: object) -> Config:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    pools = {name: {"model": f"m-{name}", "engine": engine} for name in ("small", "large")}
    return Config.model_validate({"pools": pools, "routing": {"router": router, "multi_pool": multi_pool, **routing}})
