"""Streams on the real application: learned over HTTP, the Learner killed twice; deletion by user."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.stream_service.__main__ import main
from benchmarks.stream_service.expert import record
from serve_app.config import load
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

WORDS = {
    "joy": "sun laugh gift friend song",
    "fear": "dark alone knife storm fall",
    "anger": "lie thief shout late broken",
}


def write(path: Path, count: int) -> None:
    """Texts of three words, mostly of one feeling, with the label of a fake LLM that errs now and then."""
    rng, lines = random.Random(0), []
    for number in range(count):
        feeling = number % len(WORDS)
        words = [*rng.choices(list(WORDS.values())[feeling].split(), k=2), f"on day {number}"]
        expert = feeling if rng.random() < 0.95 else rng.randrange(len(WORDS))
        lines.append(json.dumps({"text": " ".join(words), "label": feeling, "llm": expert}))
    path.write_text("\n".join(lines), "utf-8")


def test_no_query_fails_and_learning_goes_on_where_it_was_when_the_learner_is_killed(tmp_path: Path) -> None:
    file, queries = tmp_path / "texts.jsonl", 600
    write(file, queries)
    options = ["--labels", ",".join(WORDS), "--expert", "llm", "--levels", "logistic", "--queries", str(queries)]
    # so few queries say nothing of accuracies that are near each other: what is held here is asked below
    main([str(file), *options, "--runs", "killed", "--llm-share", "0.4", "--rate", "50", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "stream_service.json").read_text("utf-8"))
    run, held = found["runs"]["killed"], found["held"]
    assert held["no query fails"], run["first_failures"]
    assert held["nothing is lost"], run["learned"]
    assert len(run["kills"]) == 2
    for kill in run["kills"]:
        assert kill["labels_after"] >= kill["labels_before"] > 0
        assert kill["learned_again"] > 0
    assert run["learned"]["queries"] == queries
    assert run["llm_share"] < 0.6
    assert run["accuracy_last_quarter"] > 0.8


def test_what_a_user_wrote_leaves_the_streams_journals_and_the_store(tmp_path: Path) -> None:
    """Deletion by user through a Gateway reaches the Learner's process: no byte of the texts is left on disk."""
    texts = {user: [f"sun laugh {user}-wrote-this {i}" for i in range(30)] for user in ("ann", "bob")}
    record(list(WORDS), {text: 0 for of_user in texts.values() for text in of_user})
    tree = load("lab").model_dump(mode="json")
    tree["streams"] |= {"enabled": True, "folder": str(tmp_path / "streams")}
    with serving(tree, tmp_path, "benchmarks.stream_service.expert:build") as url, httpx.Client(base_url=url) as client:
        stream = {"name": "mood", "labels": list(WORDS), "instruction": "Name the feeling.", "levels": ["logistic"]}
        client.post("/v1/streams", json={**stream, "llm_share": 1.0}).raise_for_status()
        for user, of_user in texts.items():
            for text in of_user:
                body = {"model": "jethro-stream-mood", "messages": [{"role": "user", "content": text}], "user": user}
                client.post("/v1/chat/completions", json=body, timeout=30).raise_for_status()
        _until(lambda: client.get("/v1/streams/mood").json()["figures"]["labelled"] == 60)
        assert _files_with(tmp_path / "streams", "ann-wrote-this")
        client.delete("/v1/users/ann/decisions", timeout=60).raise_for_status()
        assert _files_with(tmp_path / "streams", "ann-wrote-this") == []
        assert _files_with(tmp_path / "streams", "bob-wrote-this"), "another user's texts stay"
        _until(lambda: _files_with(tmp_path, "ann-wrote-this") == [])  # the store's VACUUM runs behind the answer


def _files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def _until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.2)
