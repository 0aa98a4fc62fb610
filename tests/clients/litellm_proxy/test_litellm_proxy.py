"""LiteLLM's proxy in front of the endpoint, called by OpenAI's client."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

MASTER = "sk-of-the-proxy"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["city", "day"],
        },
    },
}


class Answer(BaseModel):
    value: int = Field(ge=0, le=999)


@pytest.fixture(scope="module")
def client(url: str, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder: Path = tmp_path_factory.mktemp("proxy")
    names = ("jethro", "jlab-large", "double", "embed")
    params = {name: {"model": f"openai/{name}", "api_base": url, "api_key": key} for name in names}
    models = [{"model_name": name, "litellm_params": params[name]} for name in names]
    file = folder / "config.yaml"
    file.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": MASTER}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "litellm"), "--config", str(file), "--host", "127.0.0.1"]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (folder / "log").open("wb") as log:
        proxy = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)
        try:
            _until_alive(proxy, port, folder / "log")
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=MASTER, max_retries=0) as made:
                yield made
        finally:
            proxy.terminate()
            proxy.wait(30)


def _until_alive(proxy: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(1200):
        assert proxy.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def told(ask: str) -> Any:
    return [{"role": "user", "content": ask}]


def test_chat(client: openai.OpenAI, model: str, ask: str) -> None:
    made = client.chat.completions.create(model=model, messages=told(ask))
    assert made.choices[0].message.content and made.usage and made.usage.total_tokens > 0


def test_stream(client: openai.OpenAI, model: str, ask: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model, messages=told(ask), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert any(chunk.usage for chunk in chunks)


@pytest.mark.parametrize("dumped", [False, True])
def test_tools(client: openai.OpenAI, weather: Any, dumped: bool) -> None:
    messages = told(weather.ASK)
    while True:
        message = client.chat.completions.create(model="double", messages=messages, tools=[TOOL]).choices[0].message
        messages.append(message.model_dump() if dumped else message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather.forecast(**json.loads(call.function.arguments))  # type: ignore[union-attr]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    weather.check(message.content or "")


@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_structured(client: openai.OpenAI, ask: str, name: str) -> None:
    made = client.chat.completions.parse(model=name, messages=told(ask), response_format=Answer)
    assert isinstance(made.choices[0].message.parsed, Answer)


def test_embeddings(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="embed", input=["one", "two"])
    assert [len(row.embedding) for row in made.data] == [384, 384]


def test_responses(client: openai.OpenAI, model: str, ask: str) -> None:
    assert client.responses.create(model=model, input=ask).output_text
