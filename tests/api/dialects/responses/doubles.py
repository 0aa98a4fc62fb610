"""A pool that says what it is told to, whole or cut into pieces, and readers of what the API makes of it."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve_app.types import Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.api.fakes import USAGE, FakePool, sse

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "lab-small"}


def pieces(text: str, step: int) -> list[str]:
    return [text[i : i + step] for i in range(0, len(text), step)]


@dataclass
class Said:
    """What a model says."""

    text: str = ""
    thought: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"
    logprobs: bool = False
    usage: dict[str, Any] = field(default_factory=lambda: USAGE)

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.thought:
            message["reasoning_content"] = self.thought
        if self.refusal:
            message["refusal"] = self.refusal
        if self.calls:
            message["tool_calls"] = [
                {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, (name, arguments) in enumerate(self.calls)
            ]
        logprobs = {"content": [entry(token) for token in self.text]} if self.logprobs else None
        choice = {"index": 0, "message": message, "finish_reason": self.finish, "logprobs": logprobs}
        return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": self.usage}

    def events(self, step: int = 3) -> list[dict[str, Any]]:
        found = [chunk({"role": "assistant", "content": ""})]
        found += [chunk({"reasoning_content": piece}) for piece in pieces(self.thought, step)]
        for piece in pieces(self.text, step):
            found.append(chunk({"content": piece}, logprobs=[entry(t) for t in piece] if self.logprobs else None))
        found += [chunk({"refusal": piece}) for piece in pieces(self.refusal, step)]
        for i, (name, arguments) in enumerate(self.calls):
            function: dict[str, Any] = {"name": name, "arguments": ""}
            found.append(chunk({"tool_calls": [{"index": i, "id": f"call_{i}", "function": function}]}))
            for piece in pieces(arguments, step):
                found.append(chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]}))
        return [*found, chunk({}, self.finish), {**HEAD, "choices": [], "usage": self.usage}]


def chunk(delta: dict[str, Any], finish: str | None = None, logprobs: list[Any] | None = None) -> dict[str, Any]:
    content = None if logprobs is None else {"content": logprobs}
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": content}]}


def entry(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}


@dataclass
class SayingPool(FakePool):
    """Says `said`, in pieces of `step` characters; `error` is raised before any byte."""

    said: Said = field(default_factory=Said)
    step: int = 3
    breaks_after: int | None = None

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame]:
        self._note(query, call)
        if self.error is not None:
            raise self.error
        for i, event in enumerate(self.said.events(self.step)):
            if i == self.breaks_after:
                yield Frame(sse({"error": {"message": "the model broke"}}))
                return
            yield Frame(sse(event))

    async def complete(self, query: Query, call: Call) -> Answer:
        self._note(query, call)
        if self.error is not None:
            raise self.error
        return Answer(orjson.dumps(self.said.whole()))


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each checked: its name, its number, and by the client's own model."""
    found = []
    for i, block in enumerate(stream.decode().strip().split("\n\n")):
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == i
        EVENTS.validate_python(event, strict=True)
        found.append(event)
    return found


def checked_response(response: dict[str, Any]) -> Response:
    """A response by the client's own model, strictly."""
    return Response.model_validate(response, strict=True)


def replayed(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output as one who reads only the pieces has it; order and indices are checked on the way."""
    items: list[dict[str, Any]] = []
    open_items: set[int] = set()
    for event in events:
        kind, at = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert at == len(items)
            items.append(orjson.loads(orjson.dumps(event["item"])))
            open_items.add(at)
            continue
        if at is None:
            continue
        assert at in open_items
        item = items[at]
        assert event.get("item_id", item["id"]) == item["id"]
        if kind == "response.content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(dict(event["part"]))
        elif kind.endswith(".delta") and item["type"] == "function_call":
            item["arguments"] += event["delta"]
        elif kind.endswith(".delta"):
            assert event["content_index"] == len(item["content"]) - 1
            part = item["content"][-1]
            part["refusal" if part["type"] == "refusal" else "text"] += event["delta"]
            if part["type"] == "output_text":
                part["logprobs"] = part["logprobs"] + event["logprobs"]
        elif kind == "response.content_part.done":
            assert event["part"] == item["content"][event["content_index"]]
        elif kind == "response.output_item.done":
            open_items.remove(at)
            item["status"] = event["item"]["status"]
            assert event["item"] == item
    assert not open_items
    return items
