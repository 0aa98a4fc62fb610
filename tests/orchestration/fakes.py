"""An engine that answers turn by turn with texts or tool calls, tools to run, and a strategy over such engines."""

import json
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.cascade.base import Chain
from serve_app.config.orchestration import TaskConfig, ToolConfig
from serve_app.engines.local_pool import LocalPool
from serve_app.orchestration.server_tools import ServerTools
from serve_app.orchestration.strategy import Orchestration
from serve_app.orchestration.tasks import TaskTable
from serve_app.types import Capabilities, Chunk, Price, Query, TokenLogprob, Usage
from tests.fakes import FakeEngine

ABLE = Capabilities(guided=True, tools=True, adapters=True, max_context_tokens=4096)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A tool call, as a turn of a script."""
    return {"name": name, "arguments": json.dumps(arguments)}


@dataclass
class TurnEngine(FakeEngine):
    """Says `turns` one after the other, the last one again and again: a text, or a tool call. Each token has `sure`."""

    turns: Sequence[str | dict[str, Any]] = ("ok",)
    sure: float = -0.1
    finish: str = "stop"
    said: list[str | dict[str, Any]] = field(default_factory=list)

    async def _chunks(self, query: Query) -> AsyncGenerator[Chunk, None]:
        turn = self.turns[min(len(self.said), len(self.turns) - 1)]
        self.said.append(turn)
        usage = Usage(self._prompt_tokens(query), 1)
        if isinstance(turn, dict):
            piece = {"index": 0, "id": "call_x", "type": "function", "function": turn}
            yield Chunk(0, tool_calls=(piece,))
            yield Chunk(0, finish_reason="tool_calls", usage=usage)
            return
        probs = (TokenLogprob(turn, self.sure),) if query.sampling.logprobs else ()
        yield Chunk(0, turn, logprobs=probs)
        yield Chunk(0, finish_reason=self.finish, usage=usage)  # type: ignore[arg-type]


def pool(name: str, *turns: str | dict[str, Any], can: Capabilities = ABLE, **options: Any) -> LocalPool:
    engine = TurnEngine(f"m-{name}", capabilities=can, turns=turns or ("ok",), **options)
    return LocalPool(name, engine, Price(1.0, 1.0))


def engine_of(pool: LocalPool) -> TurnEngine:
    found = pool._engine
    assert isinstance(found, TurnEngine)
    return found


def tool(function: str, **options: Any) -> ToolConfig:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    settings = {"description": "a tool", "parameters": schema, "timeout_s": 20.0} | options
    return ToolConfig(function=f"tests.orchestration.fakes:{function}", **settings)


def orchestration(
    pools: Sequence[LocalPool],
    rows: Mapping[str, TaskConfig] | None = None,
    default: TaskConfig | None = None,
    tools: Mapping[str, ToolConfig] | None = None,
    steps: int = 4,
    **options: Any,
) -> Orchestration:
    """Without rows: one tier for each pool, in their order."""
    default = default or TaskConfig.model_validate({"tiers": [{"pool": each.name} for each in pools]})
    return Orchestration(
        "orchestrate",
        Chain((), "orchestration-test"),
        {each.name: each for each in pools},
        table=options.pop("table", TaskTable(rows or {}, default)),
        tools=ServerTools(tools or {}, steps, 2),
        **options,
    )


# What runs as tools.


def double(a: int) -> int:
    return 2 * a


def fail(a: int) -> int:
    raise ValueError(f"no {a} here")


def hang(a: int) -> str:
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "7717")
    time.sleep(600)
    return "late"


def large(a: int) -> str:
    return "x" * a


def hungry(a: int) -> int:
    return len(bytearray(a << 20))


def secrets(a: int) -> list[str]:
    print("this is no result")
    return sorted(os.environ)


def leave(a: int) -> None:
    os._exit(a)
