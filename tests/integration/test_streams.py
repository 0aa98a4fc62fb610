"""Streams on the real application: learned over HTTP, the Learner killed twice; the benchmark at a smaller size."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.stream_service.__main__ import main

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
