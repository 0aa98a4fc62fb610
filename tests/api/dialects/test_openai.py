"""One query, by chat, responses and messages: the same query below, the same decision, text, usage and cost."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.api.fakes import FakePool, services

SYSTEM = "Be brief."
SHORT, LONG = "hi", "Explain at length " + "why the sky is blue " * 40
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def chat(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": TOOL}}
    said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return "/v1/chat/completions", {"messages": said, "max_tokens": 40, "tools": [tool], **more}


def responses(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "name": "look", "description": "Looks.", "parameters": TOOL}
    body = {"input": text, "instructions": SYSTEM, "max_output_tokens": 40, "tools": [tool], **more}
    return "/v1/responses", body


def messages(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    tool = {"name": "look", "description": "Looks.", "input_schema": TOOL}
    said = [{"role": "user", "content": text}]
    return "/v1/messages", {"messages": said, "system": SYSTEM, "max_tokens": 40, "tools": [tool], **more}


APIS = (chat, responses, messages)


def last_event(text: str) -> dict[str, Any]:
    """The data of the event of a stream that has the `jethro` object."""
    events = [orjson.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    found = [e for e in events if "jethro" in e or "jethro" in (e.get("response") or {})]
    assert len(found) == 1
    return found[0]


def text_of(body: dict[str, Any]) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    if "output" in body:
        return "".join(part["text"] for item in body["output"] for part in item["content"])
    return "".join(block["text"] for block in body["content"])


def usage_of(body: dict[str, Any]) -> tuple[int, int]:
    usage = body["usage"]
    names = ("prompt_tokens", "completion_tokens") if "prompt_tokens" in usage else ("input_tokens", "output_tokens")
    return usage[names[0]], usage[names[1]]


def comparable(decision: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in decision.items() if k not in ("decision_id", "decision_ms")}


@pytest.mark.parametrize("text", [SHORT, LONG])
async def test_the_same_answer_by_every_api(client, text):
    found = []
    for api in APIS:
        path, body = api(text)
        small, large = FakePool(), FakePool("large", "lab-large", words=("long", "er"))
        answer = await client(services(small=small, large=large)).post(path, json={"model": "jethro", **body})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        headers = {k: v for k, v in answer.headers.items() if k.startswith("x-jethro-") and k != "x-jethro-decision-id"}
        found.append((comparable(said["jethro"]), text_of(said), usage_of(said), headers))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["pool"] == ("small" if text == SHORT else "large")


@pytest.mark.parametrize("text", [SHORT, LONG])
async def test_the_same_decision_in_every_stream(client, text):
    found = []
    for api in APIS:
        path, body = api(text, stream=True)
        answer = await client().post(path, json={"model": "jethro", **body})
        event = last_event(answer.text)
        found.append(comparable(event.get("jethro") or event["response"]["jethro"]))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("api", APIS)
async def test_the_pool_sees_the_same_query(client, api: Callable[..., tuple[str, dict[str, Any]]]):
    pool = FakePool()
    for each in (chat, api):
        path, body = each(SHORT, temperature=0.5, top_p=0.9)
        answer = await client(services(small=pool)).post(path, json={"model": "lab-small", **body})
        assert answer.status_code == 200, answer.text
    one, other = pool.queries
    assert [(m.role, m.content) for m in one.messages] == [(m.role, m.content) for m in other.messages]
    assert [t["function"]["name"] for t in one.tools] == [t["function"]["name"] for t in other.tools]
    assert (one.sampling.temperature, one.sampling.top_p, one.sampling.max_tokens) == (0.5, 0.9, 40)
    assert (other.sampling.temperature, other.sampling.top_p, other.sampling.max_tokens) == (0.5, 0.9, 40)
