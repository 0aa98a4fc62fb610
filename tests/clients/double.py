"""A double of OpenAI's API for tests: a server on localhost that calls the tools it is given and answers by schema.

It takes nothing that OpenAI's API would not take: unknown fields, tool messages that answer no call, calls without an
answer, and conversations that end with the model's own words are 400s. Its messages carry all that upstreams add
(`annotations`, `audio`, `refusal`, `reasoning_content`, ...), so that a client that echoes a message echoes those.
"""

import base64
import hashlib
import itertools
import re
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.clients.instances import instance

MODEL = "double"
TURNS = 5
"""Calls of tools in a conversation before the answer."""
WIDTH = 384
_SERIAL = itertools.count(1)
_REQUEST = frozenset(
    {
        *("messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias"),
        *("logprobs", "max_completion_tokens", "max_tokens", "metadata", "modalities", "n"),
        *("parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key"),
        *("prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed"),
        *("service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
        *("top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    }
)
_MESSAGE = {
    "developer": {"content", "name"},
    "system": {"content", "name"},
    "user": {"content", "name"},
    "assistant": {"content", "name", "refusal", "audio", "tool_calls", "function_call", "annotations"},
    "tool": {"content", "tool_call_id"},
}


class Refused(Exception):
    """What OpenAI's API would refuse. `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param

    def response(self) -> Response:
        error = {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": None}
        return JSONResponse({"error": error}, 400)


def checked(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The messages of a body that OpenAI's API would take. Raises Refused."""
    for field in body.keys() - _REQUEST:
        raise Refused(f"Unrecognized request argument supplied: {field}", field)
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or []
    if not messages:
        raise Refused("'messages' must have a message.", "messages")
    open_calls: set[str] = set()
    for i, message in enumerate(messages):
        role, param = message.get("role"), f"messages[{i}]"
        if role not in _MESSAGE:
            raise Refused(f"Invalid value: {role!r}.", f"{param}.role")
        for field in message.keys() - _MESSAGE[role] - {"role"}:
            raise Refused(f"Unknown parameter: '{param}.{field}'.", f"{param}.{field}")
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise Refused("A 'tool' message must answer a preceding call of a tool.", param)
            open_calls.remove(message["tool_call_id"])
        elif open_calls:
            raise Refused(f"Calls without an answer: {sorted(open_calls)}.", param)
        if message.get("tool_calls") == []:
            raise Refused(f"[] is too short - '{param}.tool_calls'", f"{param}.tool_calls")
        for j, call in enumerate(message.get("tool_calls") or []):
            for field in call.keys() - {"id", "type", "function"}:
                raise Refused(f"Unknown parameter: '{param}.tool_calls[{j}].{field}'.", param)
            for field in call["function"].keys() - {"name", "arguments"}:
                raise Refused(f"Unknown parameter: '{param}.tool_calls[{j}].function.{field}'.", param)
            orjson.loads(call["function"]["arguments"])
            open_calls.add(call["id"])
    if open_calls:
        raise Refused(f"Calls without an answer: {sorted(open_calls)}.", "messages")
    return messages


def text_of(content: Any) -> str:
    """A message's text, of its parts as well."""
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def answered(body: Mapping[str, Any]) -> dict[str, Any]:
    """The message that answers a body: a call of a tool, JSON by its schema, a refusal or text. Raises Refused."""
    messages = checked(body)
    start = max(i for i, message in enumerate(messages) if message["role"] == "user")
    asked, results = text_of(messages[start]["content"]), [m for m in messages[start:] if m["role"] == "tool"]
    rounds = sum(1 for m in messages[start:] if m.get("tool_calls"))
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "reasoning_content": f"Thought {rounds + 1}.",
    }
    calls = tool_calls(body, rounds, 2 if "in parallel" in asked and rounds == 0 else 1)
    if calls:
        return message | {"tool_calls": calls}
    form = body.get("response_format") or {"type": "text"}
    if "refuse" in asked:
        return message | {"refusal": "I cannot help with that."}
    if form["type"] == "json_schema":
        return message | {"content": orjson.dumps(instance(form["json_schema"]["schema"], rounds)).decode()}
    if form["type"] == "json_object":
        return message | {"content": '{"value": 42}'}
    if (told := fields_of(asked)) is not None:
        return message | {"content": told}
    if results:
        return message | {"content": f"After {rounds} turns: {text_of(results[-1]['content'])}"}
    return message | {"content": f"You wrote: {asked}"}


def fields_of(asked: str) -> str | None:
    """An answer in the form of DSPy, which asks in words for fields, and for calls of tools in fields as well."""
    named = re.search(r"^Respond with .*", asked, re.MULTILINE)
    if named is None:
        return None
    marked = re.findall(r"`\[\[ ## (\w+) ## \]\]`", named[0])
    names = [name for name in marked or re.findall(r"`(\w+)`", named[0]) if name != "completed"]
    observed = re.findall(r"^\[\[ ## observation_\d+ ## \]\]\n(.*)$", asked, re.MULTILINE)
    results = [result for result in observed if result != "Completed."]  # that of finishing
    values: dict[str, Any] = dict.fromkeys(names, f"After {len(results)} turns: {results[-1]}" if results else 42)
    if "next_tool_name" in names:
        again = len(results) < TURNS
        values["next_tool_name"] = "forecast" if again else "finish"
        values["next_tool_args"] = {"city": "paris", "day": len(results) + 1} if again else {}
    if not marked:
        return orjson.dumps(values).decode()
    plain = {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in values.items()}
    told = [f"[[ ## {name} ## ]]\n{value}\n" for name, value in plain.items()]
    return "\n".join([*told, "[[ ## completed ## ]]"])


def tool_calls(body: Mapping[str, Any], rounds: int, at_once: int) -> list[dict[str, Any]]:
    """The calls of the next turn, in turn over the tools; after the last turn only those that are required."""
    tools, choice = [tool["function"] for tool in body.get("tools") or []], body.get("tool_choice") or "auto"
    if not tools or choice == "none" or (rounds >= TURNS and choice == "auto"):
        return []
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
        if not tools:
            raise Refused("'tool_choice' names no tool.", "tool_choice")
    # required after the last turn: the last tool, by which frameworks take the answer
    chosen = [tools[-1 if rounds >= TURNS else (rounds + i) % len(tools)] for i in range(at_once)]
    made = []
    for i, tool in enumerate(chosen):
        arguments = orjson.dumps(instance(tool.get("parameters") or {}, rounds + i + 1)).decode()
        made.append(
            {
                "id": f"call_{next(_SERIAL):06d}",
                "type": "function",
                "function": {"name": tool["name"], "arguments": arguments},
            }
        )
    return made


def cut(message: dict[str, Any], body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The message within the limit of tokens (words here), and why it ends."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    words = (message["content"] or "").split(" ")
    if message.get("tool_calls"):
        return message, "tool_calls"
    if limit is not None and len(words) > limit:
        return message | {"content": " ".join(words[:limit])}, "length"
    return message, "stop"


def usage(body: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    prompt = sum(len(text_of(m.get("content")).split()) + 4 for m in body["messages"])
    completion = len(orjson.dumps(message)) // 4
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
    }


def head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    made = {"id": f"chatcmpl-{next(_SERIAL)}", "object": kind, "created": 1_796_000_000, "model": body["model"]}
    return made | {"service_tier": "default", "system_fingerprint": "fp_double"}


def deltas(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The message in pieces, as OpenAI streams them: the role, thoughts, words, calls with their arguments in two."""
    made: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    made.append({"reasoning_content": message["reasoning_content"]})
    if message["content"] is not None:
        words = message["content"].split(" ")
        made += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    if message["refusal"] is not None:
        made += [{"refusal": piece} for piece in (message["refusal"][:8], message["refusal"][8:])]
    for i, call in enumerate(message.get("tool_calls") or []):
        arguments = call["function"]["arguments"]
        empty = {"name": call["function"]["name"], "arguments": ""}
        made.append({"tool_calls": [{"index": i, "id": call["id"], "type": "function", "function": empty}]})
        for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
            made.append({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
    return made


async def events(body: Mapping[str, Any], message: dict[str, Any], finish: str) -> AsyncIterator[bytes]:
    first = head(body, "chat.completion.chunk")
    include = (body.get("stream_options") or {}).get("include_usage")
    rest = {"usage": None} if include else {}
    for delta in deltas(message):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield b"data: " + orjson.dumps(first | {"choices": [choice]} | rest) + b"\n\n"
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
    yield b"data: " + orjson.dumps(first | {"choices": [choice]} | rest) + b"\n\n"
    if include:
        yield b"data: " + orjson.dumps(first | {"choices": [], "usage": usage(body, message)}) + b"\n\n"
    yield b"data: [DONE]\n\n"


async def chat(request: Request) -> Response:
    body = orjson.loads(await request.body())
    try:
        message, finish = cut(answered(body), body)
    except Refused as refused:
        return refused.response()
    if body.get("stream"):
        return StreamingResponse(events(body, message, finish), media_type="text/event-stream")
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    whole = head(body, "chat.completion") | {"choices": [choice], "usage": usage(body, message)}
    return JSONResponse(whole)


def vector(text: str, width: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_256(text.encode()).digest(width)
    norm = sum((byte - 127.5) ** 2 for byte in raw) ** 0.5
    return [(byte - 127.5) / norm for byte in raw]


async def embeddings(request: Request) -> Response:
    body = orjson.loads(await request.body())
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = []
    for i, text in enumerate(given):
        values: Any = vector(str(text), body.get("dimensions") or WIDTH)
        if body.get("encoding_format") == "base64":
            values = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        rows.append({"object": "embedding", "index": i, "embedding": values})
    tokens = sum(len(str(text).split()) for text in given)
    counted = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": body["model"], "data": rows, "usage": counted})


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "me"}]})


def app() -> Starlette:
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


@contextmanager
def running(served: Starlette) -> Iterator[str]:
    """The URL of an app in a thread of its own, at a free port of localhost."""
    server = uvicorn.Server(uvicorn.Config(served, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
