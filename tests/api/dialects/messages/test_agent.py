"""A request as command-line agents make them: long cached instructions, many tools, results as lists, beta fields."""

from typing import Any

import anthropic
import httpx
import orjson

from serve_app.api.app import build_app
from tests.api.dialects.messages.doubles import ToolPool
from tests.api.fakes import FakePool, services

CACHED = {"cache_control": {"type": "ephemeral"}}
HEADERS = {
    "x-api-key": "k1",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "interleaved-thinking-2025-05-14,context-management-2025-06-27,prompt-caching-scope-2026-01-05",
    "anthropic-dangerous-direct-browser-access": "true",
    "user-agent": "an-agent/2.0 (external, cli)",
    "x-app": "cli",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}


def tool(number: int) -> dict[str, Any]:
    properties = {
        "path": {"type": "string", "description": "A file's path. " * 10},
        "lines": {"type": ["array", "null"], "items": {"type": "integer", "exclusiveMinimum": 0}},
        "mode": {"enum": ["read", "write"], "default": "read"},
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": ["path"],
        "additionalProperties": False,
    }
    return {"name": f"mcp__files__tool_{number}", "description": "Does something. " * 50, "input_schema": schema}


def request() -> dict[str, Any]:
    used = {"type": "tool_use", "id": "toolu_01A", "name": "mcp__files__tool_0", "input": {"path": "/a"}, **CACHED}
    failed = {**used, "id": "toolu_01B", "name": "mcp__files__tool_1"}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_01A",
        "content": [{"type": "text", "text": "1\timport os"}, {"type": "text", "text": "2\t"}],
    }
    error = {"type": "tool_result", "tool_use_id": "toolu_01B", "is_error": True, "content": "no such file: /b"}
    return {
        "model": "lab-small",
        "max_tokens": 32_000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: version=2.1; entrypoint=cli;"},
            {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral", "scope": "global"}},
            {
                "type": "text",
                "text": "You work in a terminal. " * 2000,
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Today is Monday.</system-reminder>"},
                    {"type": "text", "text": ""},
                    {"type": "text", "text": "fix the bug", **CACHED},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "let me look", "signature": ""},
                    {"type": "text", "text": "I look at both files."},
                    used,
                    failed,
                ],
            },
            {"role": "user", "content": [result, {**error, **CACHED}, {"type": "text", "text": "(one was missing)"}]},
        ],
        "tools": [*(tool(i) for i in range(19)), {**tool(19), "eager_input_streaming": True, **CACHED}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "metadata": {"user_id": orjson.dumps({"device_id": "d" * 64, "session_id": "s" * 36}).decode()},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "service_tier": "auto",
        "temperature": 1,
    }


async def post(pool: FakePool, body: dict[str, Any], path: str = "/v1/messages?beta=true") -> httpx.Response:
    transport = httpx.ASGITransport(build_app(services(small=pool, keys={"acme": "k1"})))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro", headers=HEADERS) as client:
        return await client.post(path, json=body)


async def test_an_agent_s_request_is_answered() -> None:
    pool = ToolPool()
    response = await post(pool, request())
    assert response.status_code == 200, response.text
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert names[0] == "message_start" and names[-1] == "message_stop" and "error" not in names
    assert '"name":"mcp__files__tool_0"' in response.text and '"stop_reason":"tool_use"' in response.text

    query = pool.queries[-1]
    system, user, assistant, first, second, said = query.messages
    assert system.content.startswith("You are an agent.\nYou work in a terminal. ")
    assert user.content == "<system-reminder>Today is Monday.</system-reminder>\nfix the bug"
    assert assistant.content == "I look at both files." and len(assistant.extra["tool_calls"]) == 2
    assert (first.role, first.content) == ("tool", "1\timport os\n2\t")
    assert (second.extra["tool_call_id"], second.content) == (
        "toolu_01B",
        "The tool reported an error:\nno such file: /b",
    )
    assert (said.role, said.content) == ("user", "(one was missing)")
    assert len(query.tools) == 20 and query.tools[19]["function"]["parameters"] == tool(19)["input_schema"]
    assert (query.tool_choice, query.extra) == ("auto", {"parallel_tool_calls": False})
    assert query.user == request()["metadata"]["user_id"] and query.sampling.max_tokens == 32_000


async def test_its_tokens_are_counted_first() -> None:
    body = {name: value for name, value in request().items() if name in ("model", "system", "messages", "tools")}
    response = await post(ToolPool(), body, "/v1/messages/count_tokens?beta=true")
    assert response.status_code == 200, response.text
    assert response.json()["input_tokens"] > 15_000


async def test_the_whole_answer_is_a_message_of_the_beta_client() -> None:
    answer = await post(ToolPool(), {**request(), "stream": False})
    message = anthropic.types.beta.BetaMessage.model_validate(answer.json())
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
