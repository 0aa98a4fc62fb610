"""Adapters on the real application, two replicas of a pool: added and removed while it serves, on both, for good."""

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.adapters import train_word
from serve_app.config import load
from tests.integration.serving import serving

pytestmark = pytest.mark.integration
WAIT_S = 30


def ask(url: str, model: str, text: str = "what is 3 + 4?") -> httpx.Response:
    body = {"model": model, "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


def metric(url: str, name: str) -> list[float]:
    """Its value at each replica."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")]


def until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_life_of_adapters_on_two_replicas(tmp_path: Path) -> None:
    for seed, word in enumerate(("one", "two")):
        train_word(tmp_path / "sources" / word, word, seed)
    tree = load("lab", env={}).model_dump(mode="json")
    tree["pools"]["small"]["replicas"] = {"min": 2, "max": 2}
    tree["pools"]["small"]["engine"]["adapters"] = {"max_loaded": 1}
    tree["adapters"] |= {"registry": str(tmp_path / "registry"), "sources": [str(tmp_path / "sources")]}
    tree["streams"]["enabled"] = False
    with serving(tree, tmp_path) as url:
        _served(url, tmp_path)
    with serving(tree, tmp_path) as url:  # nothing was lost by the restart
        assert said(ask(url, "jlab-small:two")) == "two"
        assert said(ask(url, "jlab-small")) == "7"
        assert ask(url, "jlab-small:one").status_code == 404


def _served(url: str, folder: Path) -> None:
    base = said(ask(url, "jlab-small"))
    assert base == "7"
    missing = ask(url, "jlab-small:one")
    assert missing.status_code == 404 and "no adapter 'one'" in missing.json()["error"]["message"]
    for word in ("one", "two"):
        body = {"source": str(folder / "sources" / word), "name": word, "pool": "small"}
        added = httpx.post(f"{url}/v1/adapters", json=body, timeout=30)
        assert added.status_code == 200, added.text
        assert said(ask(url, f"jlab-small:{word}")) == word
    models = [m["id"] for m in httpx.get(f"{url}/v1/models", timeout=30).json()["data"]]
    assert {"jlab-small:one", "jlab-small:two"} <= set(models)
    assert httpx.patch(f"{url}/v1/adapters/two", json={"pinned": True}, timeout=30).status_code == 200
    until(lambda: httpx.get(f"{url}/v1/adapters/two", timeout=30).json()["loaded"] == {"small": 2})
    assert sorted(metric(url, "jethro_engine_adapters")) == [0.0, 1.0, 1.0], "on both replicas, not on the large model"
    refused = ask(url, "jlab-small:one")
    assert refused.status_code == 400 and "pinned" in refused.json()["error"]["message"]
    assert said(ask(url, "jlab-small:two")) == "two" and said(ask(url, "jlab-small")) == base
    assert ask(url, "jlab-large:one").status_code == 404
    assert httpx.delete(f"{url}/v1/adapters/one", timeout=30).status_code == 200
    assert ask(url, "jlab-small:one").status_code == 404
    answer = ask(url, "jlab-small:two")
    assert answer.headers["x-jethro-model"] == answer.json()["model"] == "jlab-small:two"
    shutil.rmtree(folder / "sources")
    assert said(ask(url, "jlab-small:two")) == "two", "the registry has its own copy"
