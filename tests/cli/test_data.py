"""`jethro data`: files in and out, mistakes, and runs that are killed; the parts have tests of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from serve_app.data.collection.journal import CollectedCall
from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from tests.cli.counting_server import CountingServer, counting
from tests.data.samples import sums
from tests.store.test_sqlite import record

CONFIG = """
pools:
  small: {model: m-small, engine: {kind: openai, urls: [URL/v1]}, price: {input_usd_per_million: 1}}
  large: {model: m-large, engine: {kind: openai, urls: [URL/v1]}, price: {output_usd_per_million: 10}}
"""


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with counting(CountingServer()) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, server: CountingServer) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("URL", server.url))
    return path


def prompts(folder: Path, n: int) -> Path:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{i}", "prompt": f"p{i}", "reference": "r"}) + "\n" for i in range(n)))
    return path


def collect_arguments(folder: Path, config: Path, n: int) -> list[str]:
    files = ["--prompts", str(prompts(folder, n)), "--config", str(config), "--out", str(folder / "a.parquet")]
    return ["data", "collect", *files, "-n", "3", "--per-call", "2", "--concurrency", "4"]


def test_collect_writes_all_answers_with_costs(run, tmp_path, server, config):
    server.refuse = "p4"
    result = run(*collect_arguments(tmp_path, config, 6))
    assert result.exit_code == 0, result.output
    found = Dataset.load(tmp_path / "a.parquet")
    assert found.ids == ("q0", "q1", "q2", "q3", "q5") and found.references == ("r",) * 5
    assert found.weak.texts[0] == ("m-small:p0:0", "m-small:p0:1", "m-small:p0:0")
    assert found.weak.cost_usd[0].tolist() == [7e-6] * 3 and found.strong.cost_usd[0].tolist() == [2e-5] * 3
    assert np.isnan(found.weak.quality).all() and found.about["source"] == "p.jsonl"
    assert "1 queries" in result.stderr and "q4 at small: 400: not this one" in result.stderr
    assert "12 of 12" in result.stderr and "5 queries, small, large" in result.stdout
    calls = len(server.asked)
    assert run(*collect_arguments(tmp_path, config, 6)).exit_code == 0
    assert len(server.asked) == calls == 22, "a finished run asks nothing again"


def test_collect_by_an_endpoint_asks_models_by_name_with_the_callers_key(run, tmp_path, server):
    arguments = ["data", "collect", "--lab", "3", "--url", server.url, "--pool", "large", "-n", "1"]
    result = run(*arguments, "--out", str(tmp_path / "a.parquet"), "--metric", "exact", JETHRO_API_KEY="k")
    assert result.exit_code == 0, result.output
    assert {model for model, _, _ in server.asked} == {"jlab-large"} and server.keys == {"Bearer k"}
    found = Dataset.load(tmp_path / "a.parquet")
    assert list(found.pools) == ["large"] and (found.pools["large"].quality == 0).all()
    assert found.about["split"] == "unseen, learn half"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lab", "3", "--log", "x"], "give one of --prompts FILE, --log FILE and --lab N"),
        ([], "give one of --prompts FILE, --log FILE and --lab N"),
        (["--prompts", "none.jsonl"], "none.jsonl: no such file"),
        (["--log", "none.sqlite3"], "none.sqlite3: no such file"),
        (["--lab", "3", "--pool", "huge"], "no pool 'huge' that chats: it has small, large"),
        (["--lab", "3", "--temperature", "0"], "10 samples at temperature 0 are all the same"),
        (["--lab", "3", "--batches"], "--batches needs --lab N, and takes no --prompts"),
    ],
)
def test_mistakes_of_collect(run, tmp_path, config, arguments, message):
    result = run("data", "collect", *arguments, "--config", str(config), "--out", str(tmp_path / "a.parquet"))
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "a.parquet").exists()


def test_other_questions_do_not_go_into_the_same_journal(run, tmp_path, config):
    assert run(*collect_arguments(tmp_path, config, 3)).exit_code == 0
    result = run(*collect_arguments(tmp_path, config, 4))
    assert result.exit_code == 2 and "queries was 3" in result.stderr
    (tmp_path / "a.parquet.journal").unlink()
    result = run(*collect_arguments(tmp_path, config, 4))
    assert result.exit_code == 2 and "without its journal" in result.stderr


@pytest.mark.integration
def test_ten_kills_lose_nothing_and_repeat_no_finished_call(tmp_path, server, config):
    """Killed ten times at random moments, then left to finish. Open calls of a kill may be asked again, no others."""
    n, rng = 150, Random(int.from_bytes(os.urandom(4)))
    server.delay_s = 0.005
    command = [sys.executable, "-m", "serve_app.cli.main", *collect_arguments(tmp_path, config, n)]
    journal = tmp_path / "a.parquet.journal"
    finished: list[CollectedCall] = []
    for kill in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = len(finished) + rng.randrange(1, 50)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") <= wanted):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "a.parquet").exists(), f"done before kill {kill}: make it longer"
        before, finished = finished, entries(journal)
        assert finished[: len(before)] == before, "an entry was lost"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = Dataset.load(tmp_path / "a.parquet")
    assert len(found) == n and all(len(set(t)) == 2 and len(t) == 3 for p in found.pools.values() for t in p.texts)
    kept = Counter((e.query, e.pool) for e in entries(journal))
    assert set(kept.values()) == {2} and len(kept) == 2 * n
    asked = Counter(server.asked)
    needed = {(f"m-{pool}", f"p{i}", choices) for pool in ("small", "large") for i in range(n) for choices in (2, 1)}
    assert set(asked) == needed
    assert asked.total() - len(needed) <= 10 * 4, "at most the four open calls of each kill are asked again"


@pytest.mark.integration
def test_ctrl_c_says_how_to_go_on(tmp_path, server, config):
    server.delay_s = 0.01
    command = [sys.executable, "-m", "serve_app.cli.main", *collect_arguments(tmp_path, config, 500)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(server.asked) < 20:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command" in told
    assert "Traceback" not in told and len(entries(tmp_path / "a.parquet.journal")) >= 16


def entries(journal: Path) -> list[CollectedCall]:
    """The whole lines of a journal after its head."""
    content = journal.read_bytes()
    rows = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()[1:]]
    return [CollectedCall(**{**row, "texts": tuple(row["texts"])}) for row in rows]


def test_import_and_show(run, tmp_path):
    rows = [
        {
            "id": str(i),
            "prompt": f"p{i}",
            "subject": "s",
            "small_correct": i % 2,
            "large_correct": 1,
            "contaminated": i > 8,
        }
        for i in range(10)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = str(tmp_path / "a.parquet")
    result = run("data", "import", str(tmp_path / "r.jsonl"), "--pool", "small=w", "--pool", "large=s", "--out", out)
    assert result.exit_code == 0 and "9 queries, small, large; 1 contaminated" in result.stdout
    assert "completion_tokens, cost_usd" in result.stdout
    shown = run("data", "show", out, "--examples", "1").stdout
    assert "9 queries" in shown and "0.4444 [" in shown and "with 55.6 % calls of large" in shown and "0: p0" in shown
    assert run("data", "import", str(tmp_path / "r.jsonl"), "--out", out, "--keep-contaminated").exit_code == 0
    assert len(Dataset.load(Path(out))) == 10
    assert run("data", "import", str(tmp_path / "r.jsonl"), "--out", out, "--pool", "=x").exit_code == 2


def mixinstruct(path: Path, n: int) -> Path:
    """Prompts of two lengths: the weak model is the better one on short ones."""
    rows = []
    for i in range(n):
        hard = i % 2 == 1
        scores = {"weak": -4.0 if hard else -1.0, "strong": -1.5}
        candidates = [
            {"model": m, "decoding_method": "greedy", "text": m, "scores": {"bartscore": s, "rougeL": s + 5}}
            for m, s in scores.items()
        ]
        prompt = f"explain at length and prove number {i}" if hard else f"say {i}"
        rows.append({"id": f"set/{i}", "instruction": prompt, "input": "", "output": "x", "candidates": candidates})
    rows[0]["cmp_results"] = {"weak,strong": "A is better"}
    path.write_text(json.dumps(rows))
    return path


def test_mixinstruct_becomes_a_router(run, tmp_path):
    path, out = str(mixinstruct(tmp_path / "mix.json", 60)), str(tmp_path / "a.parquet")
    assert run("data", "import", path, "--out", out).exit_code == 0
    assert list(Dataset.load(Path(out)).pools) == ["weak", "strong"]
    pair = ("--pool", "small=weak", "--pool", "large=strong")
    result = run("data", "import", path, *pair, "--out", out)
    assert "60 queries, small, large; quality exp(bartscore)" in result.stdout, result.output
    registry = str(tmp_path / "registry")
    result = run("router", "train", "complexity", "--data", out, "--registry", registry, "--name", "mix")
    assert result.exit_code == 0, result.output
    found = run("data", "import", path, *pair, "--score", "rougeL", "--out", out)
    assert "quality rougeL / 100" in found.stdout
    assert "there are bartscore, rougeL" in run("data", "import", path, "--score", "bleu", "--out", out).output
    assert run("data", "import", path, "--keep-contaminated", "--out", out).exit_code == 2
    assert "1 battles of 2 models" in run("data", "import", path, "--preferences", "--out", out).stdout
    (tmp_path / "r.csv").write_text("prompt,a_correct\nq,1\n")
    assert "--score" in run("data", "import", str(tmp_path / "r.csv"), "--score", "x", "--out", out).output


def test_import_of_battles(run, tmp_path):
    row = {"prompt": "p", "model_a": "a", "model_b": "b", "winner": "tie"}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    out = tmp_path / "b.parquet"
    result = run("data", "import", str(tmp_path / "r.jsonl"), "--preferences", "--out", str(out))
    assert "1 battles of 2 models" in result.stdout and Preferences.load(out).outcome.tolist() == [0.5]
    result = run("data", "import", str(tmp_path / "r.jsonl"), "--preferences", "--pool", "a", "--out", str(out))
    assert result.exit_code == 2 and "take no --pool" in result.stderr


def test_import_of_feedback(run, tmp_path):
    log, out = tmp_path / "log.sqlite3", tmp_path / "a.parquet"
    with closing(Database(str(log))) as database:
        weak, strong = record("a", prompt="hi"), record("b", prompt="hi")
        decision = replace(strong.decision, pool="large", model="lab-large")
        database.write([weak, replace(strong, decision=decision)])
        database.add_feedback([(Feedback("a", 0.5), 1.0)])
        result = run("data", "import", str(log), "--feedback", "--out", str(out))
        assert result.exit_code == 2 and "small, large" in result.stderr
        result = run("data", "import", str(log), "--feedback", "--preferences", "--out", str(out))
        assert result.exit_code == 2 and "which of two answers" in result.stderr
        database.add_feedback([(Feedback("b", 1.0), 1.0)])
    result = run("data", "import", str(log), "--feedback", "--out", str(out))
    assert result.exit_code == 0 and "1 prompts" in result.stdout, result.output
    assert Dataset.load(out).strong.quality.tolist() == [[1.0]]
    result = run("data", "import", str(log), "--feedback", "--preferences", "--out", str(out))
    battles = Preferences.load(out)
    assert result.exit_code == 0 and {battles.model_a[0], battles.model_b[0]} == {"lab-small", "lab-large"}
    assert battles.outcome.tolist() == [float(battles.model_a[0] == "lab-large")]


def test_bad_rows_are_one_line_with_row_and_reason(run, tmp_path):
    (tmp_path / "r.csv").write_text("prompt,small_correct\nq,1\nq,nan\n")
    result = run("data", "import", str(tmp_path / "r.csv"), "--out", str(tmp_path / "a.parquet"))
    assert result.exit_code == 2 and "r.csv, line 3: small_correct" in result.stderr


def test_split_and_score(run, tmp_path):
    path = tmp_path / "a.parquet"
    sums(60, seed=0).save(path)
    result = run("data", "split", str(path), "--train", "0.5", "--seed", "1")
    assert result.exit_code == 0 and "a.train.parquet" in result.stdout
    parts = [Dataset.load(tmp_path / f"a.{name}.parquet") for name in ("train", "test")]
    assert sorted(i for part in parts for i in part.ids) == sorted(sums(60, seed=0).ids)
    assert abs(len(parts[0]) - 30) <= 3
    result = run("data", "split", str(path), "--by", "group")
    assert result.exit_code == 2 and "would be empty" in result.stderr
    result = run("data", "score", str(path), "--metric", "exact")
    assert result.exit_code == 2 and "has no reference" in result.stderr
    result = run("data", "score", str(path), "--metric", "judge")
    assert result.exit_code == 2 and "needs --judge POOL" in result.stderr


def test_score_fills_the_quality(run, tmp_path, server, config):
    assert run(*collect_arguments(tmp_path, config, 2)).exit_code == 0
    path, out = tmp_path / "a.parquet", tmp_path / "s.parquet"
    result = run("data", "score", str(path), "--metric", "token_f1", "--out", str(out))
    assert result.exit_code == 0 and "small: mean quality" in result.stdout
    assert not np.isnan(Dataset.load(out).weak.quality).any() and np.isnan(Dataset.load(path).weak.quality).all()
