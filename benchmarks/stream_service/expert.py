"""FOR BENCHMARKS ONLY: an Engine that is no model: it looks its text up in recorded labels of an LLM.

The labels are in a file that the benchmark writes. While a second file is there every label is the next one of the set
(the last is the first): a change of what the LLM means by its labels, at a moment that the benchmark chooses.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks.process import BUILD
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.pools import PoolConfig
from serve_app.engines.base import EngineHealth
from serve_app.types import Capabilities, Chunk, Query, Usage

RECORDED = BUILD / "stream_service_expert.json"
SHIFTED = BUILD / "stream_service_shifted"
DELAY_S = 0.02
"""What an answer takes; real LLMs take longer."""
_TOKENS = Usage(60, 2)


def record(labels: list[str], answers: dict[str, int | None]) -> None:
    """Write what the expert says: text to index of its label; None: an answer that is no label."""
    BUILD.mkdir(parents=True, exist_ok=True)
    RECORDED.write_text(json.dumps({"labels": labels, "answers": answers}), "utf-8")
    shift(False)


def shift(on: bool) -> None:
    """From now on the labels are the next ones, or not."""
    if on:
        SHIFTED.touch()
    else:
        SHIFTED.unlink(missing_ok=True)


class FakeExpert:
    """Says the recorded label of the last message; `unknown` where it has none."""

    def __init__(self, model: str, path: Path = RECORDED) -> None:
        self.model = model
        self.capabilities = Capabilities(logprobs=False)
        self._path = path
        self._labels: list[str] = []
        self._answers: dict[str, int | None] = {}
        self._running = 0

    async def start(self) -> None:
        """Read the labels."""
        recorded: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        self._labels, self._answers = recorded["labels"], recorded["answers"]

    def label(self, text: str) -> str:
        """What it says of a text."""
        index = self._answers.get(text)
        if index is None:
            return "unknown"
        return self._labels[(index + SHIFTED.exists()) % len(self._labels)]

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See the class."""
        self._running += 1
        try:
            await asyncio.sleep(DELAY_S)
            yield Chunk(text=self.label(query.messages[-1].content), finish_reason="stop", usage=_TOKENS)
        finally:
            self._running -= 1

    def health(self) -> EngineHealth:
        """Always well."""
        return EngineHealth(True, running=self._running)

    def metrics(self) -> str:
        """None."""
        return ""

    async def aclose(self) -> None:
        """Nothing to free."""


def build(name: str, pool: PoolConfig, adapters: AdaptersConfig | None = None) -> FakeExpert:
    """The engine factory for `serve_app.deployments`, in place of the real engines."""
    return FakeExpert(pool.model)
