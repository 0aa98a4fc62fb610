"""Simon Willison's command line `llm`, with an address in its extra-openai-models.yaml."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = '''
def forecast(city: str, day: int) -> str:
    """The weather in a city on a day."""
    with open({path!r}, "a") as out:
        out.write(f"{{city}} {{day}}\\n")
    return f"{{day + 16}} degrees in {{city}} on day {{day}}"
'''


@pytest.fixture
def llm(url: str, key: str, tmp_path: Path) -> Any:
    entry = (
        "- {{model_id: {0}, model_name: {0}, api_base: '{1}', supports_tools: true, supports_schema: true, "
        "api_key_name: clients}}\n"
    )
    chats = "".join(entry.format(name, url) for name in ("jethro", "jlab-large", "double"))
    (tmp_path / "extra-openai-models.yaml").write_text(chats)
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    run("keys", "set", "clients", "--value", key)
    return run


@pytest.mark.parametrize("how", ["--no-stream", "--usage"])
def test_chat(llm: Any, model: str, ask: str, how: str) -> None:
    assert llm("-m", model, ask, how)


def test_tools(llm: Any, tmp_path: Path, weather: Any) -> None:
    """The command's own limit is five answers; here it is one more."""
    seen = tmp_path / "seen"
    text = llm("-m", "double", "--chain-limit", "8", "--functions", TOOL.format(path=str(seen)), weather.ASK)
    assert [line.split()[1] for line in seen.read_text().splitlines()] == ["1", "2", "3", "4", "5"]
    assert text == "After 5 turns: 21 degrees in paris on day 5"


@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_structured(llm: Any, ask: str, name: str) -> None:
    assert '"value"' in llm("-m", name, "--schema", "value int", ask)


def test_chat_continued(llm: Any, ask: str) -> None:
    assert llm("-m", "double", ask)
    assert llm("-c", ask) == f"You wrote: {ask}"
