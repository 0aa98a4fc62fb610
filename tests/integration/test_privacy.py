"""On a real Ray: a random string in requests of class local is in no file and no output of the endpoint afterwards."""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.config import load
from serve_app.deployments.checks import HOME_PREFIX
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
STREAM = {"name": "mood", "labels": ["joy", "fear"], "instruction": "Name the feeling.", "levels": ["logistic"]}


def session_folders() -> list[Path]:
    """Endpoints' own folders that are there: Ray's session with the logs of every process, HAProxy's files."""
    return [p for p in Path(tempfile.gettempdir()).glob(f"{HOME_PREFIX}*") if p.is_dir()]


def files_with(word: str, *folders: Path) -> list[str]:
    """Files that hold a word; those that vanish or are no plain files are left out."""
    found, read = [], 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root, name)
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink():
                        read += 1
                        if word.encode() in path.read_bytes():
                            found.append(str(path))
    assert read > 20
    return found


def ask(http: httpx.Client, word: str, model: str, privacy: str, **rest: Any) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": f"reverse {word}"}], **rest}
    return http.post(CHAT, json=body, headers={"x-jethro-privacy": privacy}, timeout=60).status_code


def leave_early(http: httpx.Client, word: str, model: str) -> None:
    """Open a stream and close it after its first bytes."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": f"reverse {word}"}]}
    headers = {"x-jethro-privacy": "local"}
    with http.stream("POST", CHAT, json=body, headers=headers, timeout=60) as response:
        next(response.iter_raw(), b"")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path, list[Path], str]]:
    """The word, a control word of requests of class any, the endpoint's folder, Ray's folders, and the metrics."""
    word, control = f"zq{secrets.token_hex(9)}", f"yk{secrets.token_hex(9)}"
    tree = load("lab").model_dump(mode="json")
    folder = tmp_path_factory.mktemp("serve")
    tree["store"]["keep_prompts"] = True
    tree["streams"]["folder"] = str(folder / "streams")
    tree["log"]["level"] = "debug"
    before = set(session_folders())
    with serving(tree, folder) as url, httpx.Client(base_url=url) as http:
        models = [m["id"] for m in http.get("/v1/models", timeout=30).json()["data"]]
        assert http.post("/v1/streams", json=STREAM, timeout=60).status_code == 200
        statuses = []
        for model in [*models, "jethro-stream-mood"]:
            statuses += [ask(http, word, model, "local"), ask(http, word, model, "local", stream=True)]
            statuses.append(ask(http, word * 400, model, "local"))  # too long
            statuses.append(ask(http, word, model, "local", tools=[{"type": "function", "function": {"name": "f"}}]))
            leave_early(http, word, model)
        assert ask(http, control, "jethro", "any") == 200
        assert {200, 400} <= set(statuses), statuses
        metrics = http.get("/metrics", timeout=30).text
        sessions = sorted(set(session_folders()) - before)
        assert sessions
        yield word, control, folder, sessions, metrics


def test_the_word_is_nowhere_while_the_endpoint_runs(asked: Any) -> None:
    word, _, folder, sessions, metrics = asked
    assert word not in metrics
    assert files_with(word, folder, *sessions, Path("var")) == []


def test_a_word_of_another_class_is_where_the_operator_asked_for_it(asked: Any) -> None:
    _, control, folder, sessions, _ = asked
    end = time.monotonic() + 10  # decisions are written in batches
    while not any("jethro.sqlite3" in name for name in files_with(control, folder, *sessions)):
        assert time.monotonic() < end
        time.sleep(0.2)
