"""`jethro tune` against two model doubles: to the end, after a kill, with nothing to gain, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.routing.registry import Registry
from tests.cli.journey import Journey, serve
from tests.cli.model_doubles import ModelDoubles, answering, config, prompts, write_config, write_prompts
from tests.cli.start.test_init import terminal

QUICK = ("--kinds", "complexity")


@pytest.fixture
def doubles() -> Iterator[ModelDoubles]:
    with answering(ModelDoubles()) as found:
        yield found


@pytest.fixture
def tuning(tmp_path: Path, doubles: ModelDoubles, monkeypatch: pytest.MonkeyPatch) -> Journey:
    """600 prompts with right answers, and the config of both models."""
    for name in ("JETHRO_API_KEY", "JETHRO_URL", "JETHRO_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    write_config(tmp_path / "my.yaml", config(doubles, tmp_path / "routers"))
    write_prompts(tmp_path / "mine.jsonl", prompts(600, seed=1))
    return Journey(tmp_path, doubles)


def words(tuning: Journey, *more: str) -> list[str]:
    given = ("--config", tuning.at("my.yaml"), "--prompts", tuning.at("mine.jsonl"), "--out", tuning.at("out"))
    return ["tune", *given, *QUICK, *more]


def page(tuning: Journey) -> dict:
    return json.loads(Path(tuning.at("out/tuning.json")).read_text())


def test_from_prompts_to_a_served_router(tuning):
    result = tuning.done(*words(tuning, "--queries-per-month", "200000"))
    found = page(tuning)
    assert found["offered"] and found["kind"] == "complexity" and found["queries_per_month"] == 200_000
    assert found["queries"] == {"train": 300, "calibration": 120, "test": 180}
    text = Path(tuning.at("out/tuning.md")).read_text()
    assert "**recommended:** quality-drop=0.01" in text and "saved a month at 200,000 queries" in text
    assert Path(tuning.at("out/tuning.png")).read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"\de[-+]\d|-0\.0+ %", text), "numbers without exponents, and no minus before a zero"
    assert tuning.registry.default() is None, "without a terminal nothing is activated"
    command = re.search(r"^to serve it: jethro (.*)$", result.stdout, re.MULTILINE)
    tuning.done(*command[1].split())
    assert tuning.registry.default() == "tuned" and tuning.registry.versions("tuned") == [found["version"]]
    unseen = prompts(400, seed=77)
    served, point = serve(tuning.config(), "jethro", unseen), found["points"][0]
    error = 2.0 * (0.25 / len(unseen)) ** 0.5
    assert point["share"]["low"] - error <= served.share <= point["share"]["high"] + error
    assert point["quality"]["low"] - error <= served.quality <= point["quality"]["high"] + error


def test_the_parts_do_not_meet_and_the_threshold_is_of_the_calibration_part(tuning):
    import numpy as np

    from serve_app.data.recorded import read_answers
    from serve_app.data.splitting import split_dataset
    from serve_app.decision.target import Target
    from serve_app.decision.threshold import Calibration
    from serve_app.training.tuning import SHARES

    tuning.done(*words(tuning, "--target", "strong-share=0.4", "--yes"))
    parts = split_dataset(read_answers(Path(tuning.at("out/scored.parquet"))), SHARES, 0)
    router = tuning.registry.load("tuned")
    scores = router.router.score(parts["calibration"].queries)
    expected = Target.parse("strong-share=0.4").threshold(Calibration.of(scores, parts["calibration"])).value
    assert router.threshold == pytest.approx(expected)
    test = parts["test"]
    strong = router.router.score(test.queries) >= router.threshold
    quality = np.where(strong, test.strong.quality.mean(1), test.weak.quality.mean(1)).mean()
    assert page(tuning)["points"][0]["quality"]["value"] == pytest.approx(quality)
    assert not {q.text for q in test.queries} & {
        q.text for name in SHARES if name != "test" for q in parts[name].queries
    }


def test_yes_activates_and_a_second_run_pays_nothing(tuning, doubles):
    tuning.done(*words(tuning))
    paid, first = len(doubles.calls), page(tuning)
    result = tuning.done(*words(tuning, "--yes"))
    assert paid == 1200 and len(doubles.calls) == paid
    assert page(tuning) == first, "the same run finds the same"
    assert "tuned is the default router" in result.stdout and tuning.registry.default() == "tuned"


@pytest.mark.integration
def test_a_killed_run_resumes_and_pays_no_answer_twice(tuning, doubles):
    command = [sys.executable, "-m", "serve_app.cli.main", *words(tuning, "--concurrency", "4")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for paid in (100, 500):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(doubles.calls) < paid:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was to be killed while it collects"
        assert not Path(tuning.at("out/tuning.md")).exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert page(tuning)["offered"]
    assert 1200 <= len(doubles.calls) <= 1200 + 2 * 4, "only the open calls of each kill are repeated"


@pytest.mark.integration
@pytest.mark.parametrize(("answer", "default"), [("n", None), ("y", "tuned")])
def test_on_a_terminal_it_asks_before_it_activates(tuning, answer, default):
    text, code = terminal(words(tuning), tuning.folder, [answer], timeout_s=120.0)
    assert code == 0 and "Serve it by default" in text, text
    assert ("to serve it: jethro router use" in text) == (answer == "n")
    assert Registry(tuning.folder / "routers").default() == default


def write_useless(tuning: Journey) -> None:
    """Prompts of one form: nothing about them says which model is right."""
    rows = {row["prompt"]: row for row in prompts(9000, seed=5) if row["prompt"].count("+") == 4}
    write_prompts(tuning.folder / "mine.jsonl", list(rows.values())[:600])


def test_where_nothing_beats_random_no_router_is_offered(tuning):
    write_useless(tuning)
    result = tuning.done(*words(tuning, "--yes"))
    found = page(tuning)
    assert not found["offered"] and found["kind"] is None and found["version"] == ""
    assert "No router is recommended" in result.stdout and "call the large model for every query" in result.stdout
    assert "jethro router use" not in result.stdout
    assert tuning.registry.default() is None and "tuned" not in tuning.registry.names()


def test_where_the_large_model_is_no_better_the_small_one_is_recommended(tuning, doubles):
    tree = config(doubles, tuning.folder / "routers")
    tree["pools"]["small"]["model"], tree["pools"]["large"]["model"] = "double-large", "double-small"
    write_config(tuning.folder / "my.yaml", tree)
    result = tuning.done(*words(tuning))
    assert "no better than the small one" in result.stdout and "call the small model for every query" in result.stdout
    assert not page(tuning)["offered"]


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (prompts(99, seed=1), (), "99 prompts are too few"),
        ([{"prompt": f"the very same prompt number {i % 7}, nearly"} for i in range(300)], (), "different prompts are"),
        ([{"prompt": p["prompt"]} for p in prompts(150, seed=1)], ("--metric", "number"), "has no reference"),
        (
            [*prompts(150, seed=1), {"prompt": "What is x?", "reference": "x", "id": "odd"}],
            ("--metric", "number"),
            "'odd'",
        ),
        ([*prompts(150, seed=1), {"text": "no prompt"}], (), "line 151: there is no prompt"),
        (prompts(150, seed=1), ("--metric", "judge", "--judge", "gpt"), "--judge gpt: the config has the pools"),
        (prompts(150, seed=1), ("--metric", "no-such"), "metric 'no-such' is unknown"),
        (prompts(150, seed=1), ("--kinds", "psychic"), "no router kind 'psychic'"),
        (prompts(150, seed=1), ("--kinds", "random"), "name at least one kind besides random"),
        (prompts(150, seed=1), ("--target", "best"), "target 'best': write"),
        (prompts(150, seed=1), ("--name", "complexity"), "give another --name"),
        (prompts(150, seed=1), ("--name", "a-b"), "use a-z, 0-9 and _"),
    ],
)
def test_mistakes_are_refused_before_anything_is_paid(tuning, doubles, rows, more, message):
    write_prompts(tuning.folder / "mine.jsonl", rows)
    result = tuning.run(*words(tuning), *more)
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert Counter(doubles.calls) == {}


def test_prompts_without_right_answers_are_judged(tuning, doubles):
    rows = [{"prompt": row["prompt"]} for row in prompts(150, seed=1)]
    write_prompts(tuning.folder / "mine.jsonl", rows)
    result = tuning.run(*words(tuning))
    assert "metric: judge: 150 of 150 prompts have no right answer" in result.stderr
    assert "large judges its own answers too" in result.stderr
    assert result.exit_code == 2 and "no row could be graded" in result.stderr, "the doubles judge nothing"
    assert Path(tuning.at("out/judge.journal")).is_file(), "what the judge said is kept, and not paid again"
    paid = len(doubles.calls)
    tuning.run(*words(tuning))
    assert len(doubles.calls) == paid
