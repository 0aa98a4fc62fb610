"""`jethro init` against two model doubles: by flags, on a terminal, and what it refuses."""

import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config import check_file
from serve_app.config.engines import OpenAISettings, TransformersSettings
from tests.cli.model_doubles import STRONG, WEAK, ModelDoubles, answering, prompts, write_prompts


@pytest.fixture(scope="module")
def doubles() -> Iterator[ModelDoubles]:
    with answering(ModelDoubles()) as found:
        yield found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def both(doubles: ModelDoubles) -> list[str]:
    return ["--small", f"{doubles.url}/weak/v1", "--large", f"{doubles.url}/strong/v1/"]


def test_two_urls_are_enough(run, doubles, folder):
    result = run("init", *both(doubles), "--large-price", "10,20")
    assert result.exit_code == 0, result.stderr
    config = check_file("my.yaml")
    small, large = config.pools["small"], config.pools["large"]
    assert (small.model, large.model) == (WEAK, STRONG), "each server lists one model"
    assert isinstance(large.engine, OpenAISettings) and large.engine.urls == (f"{doubles.url}/strong/v1",)
    assert large.engine.logprobs and not large.engine.guided and large.engine.max_context_tokens == 8192
    assert large.price.output_usd_per_million == 20.0 and small.price.output_usd_per_million == 0.0
    assert "put yours here" in (folder / "my.yaml").read_text(), "a missing price is pointed out"
    assert [f.name for f in folder.iterdir()] == ["my.yaml"], "no draft is left"
    again = run("config", "check", "my.yaml")
    assert again.exit_code == 0


def test_the_next_commands_run_as_they_stand(run, doubles, folder):
    write_prompts(folder / "mine.jsonl", prompts(5, seed=1))
    told = run("init", "x.yaml", *both(doubles), "--prompts", "mine.jsonl").stdout
    commands = [line.strip() for line in told.splitlines() if line.startswith("  jethro ")]
    assert commands == [
        "jethro config check x.yaml",
        "jethro tune --config x.yaml --prompts mine.jsonl",
        "jethro serve x.yaml",
    ]
    assert run(*commands[0].split()[1:]).exit_code == 0
    assert "5 prompts are too few" in run(*commands[1].split()[1:]).stderr, "it gets as far as the prompts"


def test_a_key_is_used_and_never_written(run, doubles, folder):
    result = run("init", *both(doubles), "--small-key-env", "WEAK_KEY", WEAK_KEY="the-secret-itself")
    assert result.exit_code == 0, result.stderr
    text = (folder / "my.yaml").read_text()
    assert "api_key_env: WEAK_KEY" in text and "the-secret" not in text + result.output


def test_a_url_that_may_hold_a_key_makes_the_file_the_owners(run, doubles, folder):
    urls = ["--small", f"{doubles.url}/weak/v1?key=1", "--large", f"{doubles.url}/strong/v1"]
    result = run("init", *urls, "--no-check", "--small-model", "a", "--large-model", "b")
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE((folder / "my.yaml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--small", "URL/v1"], "--small-model is missing: which model of"),
        (["--small", "http://127.0.0.1:1/v1"], "start the server, or correct the URL"),
        (["--small-model", "wrong"], "it lists double-small: write one of its ids"),
        (["--small", "http://bad host/v1"], "a URL has no blanks"),
        (["--small-key-env", "sk-123abc"], "not a key"),
        (["--small-key-env", "NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["--small-price", "cheap"], "--small-price cheap"),
        (["--large", "URL/weak/v1"], "small and large are the same model"),
        (["--prompts", "none.jsonl"], "none.jsonl: no such file"),
        (["--large", "./no-model-here"], "no folder of a Hugging Face model"),
    ],
)
def test_mistakes_write_nothing(run, doubles, folder, more, message):
    result = run("init", *both(doubles), *(word.replace("URL", doubles.url) for word in more))
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert "sk-123abc" not in result.output and list(folder.iterdir()) == []


def test_without_a_terminal_nothing_is_requested(run, doubles, folder):
    result = run("init", "--small", f"{doubles.url}/weak/v1")
    assert result.exit_code == 2 and "--large is missing" in result.stderr and list(folder.iterdir()) == []


def test_a_file_is_overwritten_only_by_force(run, doubles, folder):
    (folder / "my.yaml").write_text("mine: 1\n")
    result = run("init", *both(doubles))
    assert result.exit_code == 2 and "--force" in result.stderr
    assert (folder / "my.yaml").read_text() == "mine: 1\n"
    assert run("init", *both(doubles), "--force").exit_code == 0
    assert check_file("my.yaml").pools["small"].model == WEAK


def test_one_model_id_at_two_servers_gets_two_names(run, doubles):
    urls = ["--small", f"{doubles.url}/weak/v1", "--large", f"{doubles.url}/strong/v1"]
    assert run("init", *urls, "--no-check", "--small-model", "m", "--large-model", "m").exit_code == 0
    pools = check_file("my.yaml").pools
    assert [p.model for p in pools.values()] == ["m-small", "m-large"]
    assert [p.engine.upstream_model for p in pools.values()] == ["m", "m"]


def test_models_that_run_here(run):
    result = run("init", "--small", "lab:small", "--large", "lab:large")
    assert result.exit_code == 0, result.stderr
    engines = [pool.engine for pool in check_file("my.yaml").pools.values()]
    if isinstance(engines[0], TransformersSettings):
        assert [engine.path for engine in engines] == ["lab:small", "lab:large"]


@pytest.mark.integration
def test_on_a_terminal_what_is_missing_is_requested_until_it_is_right(doubles, folder):
    write_prompts(folder / "mine.jsonl", prompts(5, seed=1))
    typed = {
        "the small, cheap model": ["http://127.0.0.1:1/v1", "", ""],
        "start the server": [f"{doubles.url}/weak/v1", "", "0.5,1"],
        "the large model": [f"{doubles.url}/v1", "", "10,20"],
        "models: double-small": [STRONG],
        "your prompts": ["nowhere.jsonl", "mine.jsonl"],
    }
    text, code = terminal(["init"], folder, [answer for answers in typed.values() for answer in answers])
    assert code == 0, text
    assert all(expected in text for expected in typed), text
    pools = check_file("my.yaml").pools
    assert (pools["small"].model, pools["large"].model) == (WEAK, STRONG)
    assert pools["large"].price.input_usd_per_million == 10.0
    assert "jethro tune --config my.yaml --prompts mine.jsonl" in text


def terminal(words: list[str], folder: Path, answers: list[str], timeout_s: float = 60.0) -> tuple[str, int]:
    """A command on a pseudo-terminal: an answer is typed whenever it waits at a prompt. What it wrote, its status."""
    own, theirs = pty.openpty()
    command = [sys.executable, "-m", "serve_app.cli.main", *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "dumb", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env) as process:
        os.close(theirs)
        text, waiting, end_s = "", list(answers), time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            ready, _, _ = select.select([own], [], [], 0.2)
            if ready:
                try:
                    text += os.read(own, 65536).decode("utf-8", "replace")
                except OSError:  # the command ended and closed its side
                    break
            elif re.search(r"(: |\]: ?)$", text) and waiting:
                os.write(own, f"{waiting.pop(0)}\n".encode())
                text += "\x00"  # the prompt is answered
        else:
            process.kill()
        os.close(own)
        return text.replace("\x00", "").replace("\r", ""), process.wait()
