"""The task table that ships: the embedded models with their adapters, in this process."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.config import load
from serve_app.engines.factory import build_engine
from serve_app.engines.local_pool import LocalPool
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.orchestration import ORCHESTRATE
from serve_app.lab.sample import sample
from serve_app.orchestration.strategy import Orchestration
from serve_app.types import Capabilities, Message, Price, Query, Sampling
from tests.cascade.fakes import run, told
from tests.gateway.test_cascades import LAB, pools

CONFIG = load("lab")


@pytest.fixture
async def strategy() -> AsyncIterator[Orchestration]:
    served = {}
    for name in ("small", "large"):
        settings = CONFIG.pools[name]
        engine = build_engine(name, settings)
        await engine.start()
        served[name] = LocalPool(name, engine, Price(**settings.price.model_dump()))
    found = Catalogue.from_config(CONFIG, served).resolve(ORCHESTRATE)
    assert isinstance(found, Orchestration)
    yield found
    for pool in served.values():
        await pool.aclose()


def query(text: str) -> Query:
    return Query((Message("user", text),), Sampling(temperature=0.0))


async def test_small_with_the_tasks_adapter_answers_what_small_alone_cannot(strategy: Orchestration) -> None:
    for text, task, right in (
        ("reverse strawberry", "reverse", "yrrebwarts"),
        ("convert 208 to roman", "roman", "ccviii"),
        ("6 weeks and 4 days in days", "units", "46"),
        ("sort 52 17 88 6 34", "sort", "6 17 34 52 88"),
    ):
        decision, said, _ = told(await run(strategy, query(text)))
        assert (decision.task, decision.adapter, decision.pool, said) == (task, task, "small", right)
    decision, said, _ = told(await run(strategy, query("687 + 320")))
    assert (decision.task, decision.adapter, decision.pool, said) == ("default", None, "large", "1007")


async def test_most_unseen_queries_of_the_tasks_stay_small_and_are_right(strategy: Orchestration) -> None:
    items = [item for item in sample(400, 8, "unseen") if item.task in strategy.table.rows]
    assert len(items) > 60
    right = small = 0
    for item in items:
        decision, said, _ = told(await run(strategy, query(item.prompt)))
        right += said == item.answer
        small += decision.pool == "small"
    assert right / len(items) >= 0.95 and small / len(items) >= 0.9


def test_the_table_is_for_these_models_with_their_adapters_alone() -> None:
    def rows(**models: Any) -> int:
        served = pools(**models)
        for pool in served.values():
            pool.capabilities = Capabilities(adapters=True)
        found = Catalogue.from_config(CONFIG, served).resolve(ORCHESTRATE)  # type: ignore[arg-type]
        assert isinstance(found, Orchestration)
        return len(found.table.rows)

    assert rows(**LAB) == 4 and rows(small="jlab-small") == 0
