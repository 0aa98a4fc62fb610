"""FOR BENCHMARKS ONLY: a fake OpenAI upstream on bare uvicorn and FastAPI.

It is the model behind LiteLLM, and by itself the limit that any Python server could reach: JSON in, JSON out.
"""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from benchmarks.script import PROMPT_TOKENS, TOKEN, pace_s

_HEAD = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "created": 1_700_000_000, "model": "fake"}


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + orjson.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


_FIRST = _event({"role": "assistant", "content": TOKEN})
_NEXT = _event({"content": TOKEN})
_LAST = _event({"content": TOKEN}, "stop")
_DONE = b"data: [DONE]\n\n"


def build() -> FastAPI:
    """The app, for `uvicorn --factory`."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = orjson.loads(await request.body())
        tokens = body.get("max_tokens") or 1
        if body.get("stream"):
            return StreamingResponse(_events(body, tokens), media_type="text/event-stream")
        return Response(_answer(tokens), media_type="application/json")

    @app.get("/health")
    async def health() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}


def _answer(tokens: int) -> bytes:
    message = {"role": "assistant", "content": TOKEN * tokens}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return orjson.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)})


async def _events(body: dict[str, Any], tokens: int) -> AsyncIterator[bytes]:
    """One event a token, each a write of its own; usage only on request."""
    gap_s, start_s = pace_s(body["messages"][-1]["content"]), monotonic()
    for token in range(1, tokens + 1):
        await asyncio.sleep(max(0.0, start_s + token * gap_s - monotonic()) if gap_s else 0)
        yield _LAST if token == tokens else _FIRST if token == 1 else _NEXT
    if (body.get("stream_options") or {}).get("include_usage"):
        event = {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _usage(tokens)}
        yield b"data: " + orjson.dumps(event) + b"\n\n"
    yield _DONE
