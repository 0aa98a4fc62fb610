"""Which task table a config has, what an operator is shown who has made a mistake, and how it follows the router."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.config.orchestration import OrchestrationConfig
from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.orchestration import ORCHESTRATE, load_orchestration
from serve_app.gateway.priors import PriorRouters
from serve_app.orchestration.classifier import TaskExample, fit_tasks
from serve_app.orchestration.strategy import Orchestration
from serve_app.types import Capabilities
from tests.gateway.test_cascades import pools
from tests.routing.fakes import FakePool

ROW = {"tiers": [{"pool": "small"}, {"pool": "large"}]}


def made(config: dict[str, Any], served: dict[str, FakePool] | None = None) -> Orchestration:
    settings = OrchestrationConfig.model_validate(config)
    return load_orchestration(settings, served or pools(), PriorRouters(dict))[0]  # type: ignore[arg-type]


def test_without_a_table_every_query_begins_small_unless_the_router_finds_it_hard() -> None:
    strategy = made({})
    assert [(t.pool, t.strong) for t in strategy.table.default.tiers] == [("small", False), ("large", True)]
    assert not strategy.table.rows


def test_a_table_has_a_version_that_names_all_that_decides() -> None:
    first = made({"tasks": {"a": ROW}}).chain.version
    assert first == made({"tasks": {"a": ROW}}).chain.version != made({"tasks": {"b": ROW}}).chain.version
    assert first != made({"tasks": {"a": {**ROW, "system": "Be brief."}}}).chain.version


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tiers": [{"pool": "huge"}]}, r"orchestration\.tasks\.a\.tiers\[0\]\.pool: no pool 'huge'"),
        ({"tiers": [{"pool": "small", "min_confidence": 0.5}, {"pool": "large"}]}, "returns no log-probabilities"),
    ],
)
def test_a_row_that_cannot_serve_is_refused_with_its_key(row: dict[str, Any], says: str) -> None:
    served = pools()
    served["small"].capabilities = Capabilities(logprobs=False)
    with pytest.raises(ConfigError, match=says):
        made({"tasks": {"a": row}}, served)


def test_the_classifiers_tasks_have_rows(tmp_path: Path) -> None:
    rows = [TaskExample(f"{word} {i}", task) for word, task in (("red", "a"), ("blue", None)) for i in range(20)]
    fit_tasks(rows).save(tmp_path)
    assert made({"tasks": {"a": ROW}, "classifier": str(tmp_path)}).table.classifier is not None
    with pytest.raises(ConfigError, match="knows the task 'a'"):
        made({"tasks": {"b": ROW}, "classifier": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"orchestration\.classifier: .*no such file"):
        made({"tasks": {"b": ROW}, "classifier": str(tmp_path / "none")})


def test_the_catalogue_serves_it_with_the_router_in_service() -> None:
    body = {name: {"model": f"m-{name}", "engine": {"kind": "openai", "urls": ["http://x/v1"]}} for name in pools()}
    catalogue = Catalogue.from_config(Config.model_validate({"pools": body}), pools())  # type: ignore[arg-type]
    strategy = catalogue.resolve(ORCHESTRATE)
    assert isinstance(strategy, Orchestration)
    assert (strategy.router, strategy.threshold) == (catalogue.routers.default, catalogue.routers.threshold)
    assert ORCHESTRATE in [entry.id for entry in catalogue.models()]
