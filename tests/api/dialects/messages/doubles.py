"""A pool that calls tools, for tests: a double of a model that can."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson

from serve_app.types import Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.api.fakes import USAGE, FakePool, sse


@dataclass
class ToolPool(FakePool):
    """Says a word and calls two tools until `turns` of the user's have results, then says what the last one was."""

    turns: int = 5

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame]:
        self._note(query, call)
        head, (text, calls) = self._head(query, call, stream=True), self._says(query)

        def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
            return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        yield Frame(sse(chunk(role="assistant", content="")))
        for piece in text:
            yield Frame(sse(chunk(content=piece)))
        for i, made in enumerate(calls):
            function = made["function"]
            first = {**made, "index": i, "function": {"name": function["name"], "arguments": ""}}
            yield Frame(sse(chunk(tool_calls=[first])))
            for piece in (function["arguments"][:3], function["arguments"][3:]):
                yield Frame(sse(chunk(tool_calls=[{"index": i, "function": {"arguments": piece}}])))
        yield Frame(sse(chunk("tool_calls" if calls else "stop"), {**head, "choices": [], "usage": USAGE}))

    async def complete(self, query: Query, call: Call) -> Answer:
        self._note(query, call)
        text, calls = self._says(query)
        message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        return Answer(orjson.dumps({**self._head(query, call, stream=False), "choices": [choice], "usage": USAGE}))

    def _says(self, query: Query) -> tuple[str, list[dict[str, Any]]]:
        results = [message for message in query.messages if message.role == "tool"]
        turn = len(results) // 2
        if turn >= self.turns or not query.tools:
            return f"done: {results[-1].content if results else ''}", []
        names = [tool["function"]["name"] for tool in query.tools[:2]]
        calls = [
            {
                "id": f"call_{turn}_{i}",
                "type": "function",
                "function": {"name": name, "arguments": orjson.dumps({"turn": turn, "path": "ä/b"}).decode()},
            }
            for i, name in enumerate(names)
        ]
        return f"turn {turn}", calls
