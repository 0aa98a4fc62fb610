"""The orchestration of a config: which task table serves under the name jethro-orchestrate, or why none does."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from serve_app.cascade.base import Chain
from serve_app.cascade.serving.skipping import LatencyEstimate
from serve_app.config.orchestration import OrchestrationConfig, TaskConfig, TierConfig
from serve_app.errors import ConfigError
from serve_app.gateway.priors import PriorRouters
from serve_app.guards.chain import Guards
from serve_app.orchestration.checks import Judge
from serve_app.orchestration.classifier import HashedTasks
from serve_app.orchestration.server_tools import ServerTools
from serve_app.orchestration.strategy import Orchestration
from serve_app.orchestration.tasks import TaskClassifier, TaskTable
from serve_app.pools.base import Pool
from serve_app.strategy import Context
from serve_app.types import Query

ORCHESTRATE: Final = "jethro-orchestrate"
_DEFAULT: Final = TaskConfig(tiers=(TierConfig(pool="small"), TierConfig(pool="large", strong=True)))
_ALONE: Final = TaskConfig(tiers=(TierConfig(pool="small"),))
_SHIPPED: Final = "tasks.yaml"


@dataclass(frozen=True, slots=True)
class ShippedTable:
    """A table that ships: the model of each of its pools, its rows, the row of all other queries, its classifier."""

    models: Mapping[str, str]
    tasks: Mapping[str, TaskConfig]
    default: TaskConfig
    classifier: TaskClassifier | None


def load_orchestration(
    config: OrchestrationConfig, pools: Mapping[str, Pool], priors: PriorRouters
) -> tuple[Orchestration, str]:
    """The strategy over these pools, and its line in /v1/models. Raises ConfigError for a table that cannot serve."""
    ships = _shipped(pools) if config.tasks is None else None
    rows = config.tasks if config.tasks is not None else ships.tasks if ships is not None else {}
    default = config.default or (ships.default if ships is not None else _DEFAULT if "large" in pools else _ALONE)
    for name, row in {**rows, "default": default}.items():
        _check_tiers(f"orchestration.tasks.{name}" if name in rows else "orchestration.default", row, pools)
    classifier = ships.classifier if ships is not None else None
    if config.classifier is not None:
        classifier = _classifier(Path(config.classifier), rows)
    strategy = Orchestration(
        "orchestrate",
        Chain((), _version(rows, default, classifier.version if classifier is not None else "")),
        pools,
        priors.score,
        LatencyEstimate(config.min_remaining_s),
        table=TaskTable(rows, default, classifier, config.min_probability),
        tools=ServerTools(config.tools, config.tool_steps, config.tool_calls),
    )
    named = f"{', '.join(rows)}, and all else" if rows else "every query"
    return strategy, f"the tiers of a query's task in turn, until an answer passes its checks: {named}"


def judge_of(guards: Guards) -> Judge:
    """The guards as what orchestration requires of an answer: one that may not leave is another tier's to give."""

    async def judge(text: str, query: Query, context: Context, pool: str) -> str:
        verdict = await guards.check_output(text, query, context.call, pool)
        if verdict.stops:
            return f"guards stop it ({', '.join(sorted(verdict.findings))})"
        context.judged.add((pool, text))
        return ""

    return judge


def _classifier(folder: Path, rows: Mapping[str, TaskConfig]) -> HashedTasks:
    """The configured classifier, whose tasks must have rows."""
    try:
        found = HashedTasks.load(folder)
    except ConfigError as e:
        raise ConfigError(f"orchestration.classifier: {e}") from e
    if unknown := next((task for task in found.tasks if task not in rows), None):
        raise ConfigError(
            f"orchestration.classifier: it knows the task {unknown!r}, which orchestration.tasks has not: add its row, "
            "or fit the classifier without it"
        )
    return found


def _check_tiers(where: str, row: TaskConfig, pools: Mapping[str, Pool]) -> None:
    for number, tier in enumerate(row.tiers):
        pool = pools.get(tier.pool)
        if pool is None:
            raise ConfigError(
                f"{where}.tiers[{number}].pool: no pool {tier.pool!r}, the config has {', '.join(pools)}: name one of "
                "them, or add it under pools"
            )
        if tier.min_confidence is not None and not pool.capabilities.logprobs:
            raise ConfigError(
                f"{where}.tiers[{number}].min_confidence: pool {tier.pool} returns no log-probabilities: set "
                f"pools.{tier.pool}.engine.logprobs if it does, or leave min_confidence out"
            )


def _shipped(pools: Mapping[str, Pool]) -> ShippedTable | None:
    """The table that ships, if these are the models that it was made for, with the adapters that it names."""
    with resources.as_file(resources.files("serve_app.orchestration") / "lab") as folder:
        body: dict[str, Any] = yaml.safe_load((folder / _SHIPPED).read_text("utf-8"))
        if any(name not in pools or pools[name].model != model for name, model in body["models"].items()):
            return None
        rows = {name: TaskConfig.model_validate(row) for name, row in body["tasks"].items()}
        named = [tier for row in rows.values() for tier in row.tiers if tier.adapter is not None]
        if any(not pools[tier.pool].capabilities.adapters for tier in named):
            return None
        return ShippedTable(body["models"], rows, TaskConfig.model_validate(body["default"]), HashedTasks.load(folder))


def _version(rows: Mapping[str, TaskConfig], default: TaskConfig, classifier: str) -> str:
    """A hash of all that decides, so that a decision names the table it was made by."""
    tables = {name: row.model_dump(mode="json") for name, row in {**rows, "default": default}.items()}
    content = orjson.dumps([tables, classifier], option=orjson.OPT_SORT_KEYS)
    return f"orchestration-{blake2b(content, digest_size=6).hexdigest()}"
