"""`jethro serve assistant` as a newcomer starts it: the real package, English answers, a double as the large model.

Skipped, with the reason, where the package cannot be downloaded. The model is fetched into a folder of its own, so that
the whole way is taken: download, hash, conversion, start, answers, and a second start without any of it.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.engines.packaged.catalogue import MODELS
from serve_app.engines.packaged.fetch import sha256_of
from tests.cli.model_doubles import STRONG, ModelDoubles, answering
from tests.integration.test_command import JETHRO, Served, free_port

pytestmark = pytest.mark.integration

SMALL = "smollm2-135m-instruct"
HARD = (
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting, and on Monday twice as "
    "long. She spends a third of what she earned on a book and saves the rest. How much does she save?"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache, with the model in it."""
    folder = tmp_path_factory.mktemp("models")
    env = {**os.environ, "JETHRO_MODELS": str(folder)}
    done = subprocess.run([JETHRO, "model", "fetch"], capture_output=True, text=True, env=env, timeout=500, check=False)
    if "cannot be downloaded" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / SMALL)
    return folder


@pytest.fixture(scope="module")
def doubles() -> Iterator[ModelDoubles]:
    with answering(ModelDoubles()) as doubles:
        yield doubles


@pytest.fixture(scope="module")
def served(models: Path, doubles: ModelDoubles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The endpoint with both models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETHRO_MODELS", str(models))
        patch.setenv("JETHRO_LARGE_URL", f"{doubles.url}/v1")
        patch.setenv("JETHRO_LARGE_MODEL", STRONG)
        patch.setenv("PIP_NO_INDEX", "1")  # from here on offline
        served = Served(free_port(), tmp_path_factory.mktemp("store") / "jethro.sqlite3", "assistant")
        try:
            served.wait_ready()
            yield served
        finally:
            assert served.stop() == 0


def ask(served: Served, text: str, model: str = "jethro", **more: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 40, **more}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_the_weights_are_the_pinned_ones(models: Path) -> None:
    assert sha256_of(models / SMALL / "model.safetensors") == MODELS[SMALL].weights_sha256


def test_the_small_model_answers_in_english(served: Served) -> None:
    answer = ask(served, "What is the capital of France?", SMALL)
    assert "Paris" in said(answer)
    assert answer.headers["x-jethro-model"] == SMALL and "x-jethro-warning" not in answer.headers
    assert answer.json()["usage"]["prompt_tokens"] > 20


def test_a_stream_arrives_in_pieces(served: Served) -> None:
    turn = {"role": "user", "content": "Count to five."}
    body = {"model": SMALL, "messages": [turn], "stream": True, "max_tokens": 20}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=300) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert len(events) > 5 and events[-1] == "data: [DONE]"


def test_a_hard_question_goes_to_the_large_model(served: Served, doubles: ModelDoubles) -> None:
    calls = len(doubles.calls)
    answer = ask(served, HARD)
    assert answer.headers["x-jethro-pool"] == "large" and said(answer) == "Hello."
    assert doubles.calls[calls:] == [STRONG]


def test_the_router_says_that_it_does_not_know_this_large_model(served: Served) -> None:
    answer, said = ask(served, HARD), "router assistant was not trained on these models: its score is a guess"
    assert answer.headers["x-jethro-warning"] == said
    assert answer.json()["jethro"]["router"] == "assistant"


def test_easy_questions_go_to_the_small_model(served: Served, doubles: ModelDoubles) -> None:
    """One of a kind that it is good at by default, any at a threshold of one's own."""
    calls = len(doubles.calls)
    answer = ask(served, "What is the chemical symbol for gold?")
    assert answer.headers["x-jethro-pool"] == "small" and "Au" in said(answer)
    answer = ask(served, "What is the plural of mouse?", "router-assistant-1")
    assert answer.headers["x-jethro-pool"] == "small" and len(said(answer)) > 3
    assert len(doubles.calls) == calls


def test_personal_data_never_reaches_the_large_model(served: Served, doubles: ModelDoubles) -> None:
    calls, personal = len(doubles.calls), f"{HARD} Send the proof to jane.doe@example.com."
    for model in ("jethro", "jethro-orchestrate", "router-assistant-0"):
        answer = ask(served, personal, model)
        assert answer.headers["x-jethro-pool"] == "small" and answer.headers["x-jethro-privacy"] == "local"
    body = {"model": STRONG, "messages": [{"role": "user", "content": personal}]}
    refused = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=300)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "placement_forbidden")
    assert len(doubles.calls) == calls


def test_without_the_large_model_a_second_start_needs_no_network(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In seconds, since nothing is fetched or converted again; every query goes to the small model and says so."""
    monkeypatch.setenv("JETHRO_MODELS", str(models))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("URL", "MODEL", "API_KEY"):
        monkeypatch.delenv(f"JETHRO_LARGE_{name}", raising=False)
    begun = time.monotonic()
    refused = subprocess.run([JETHRO, "serve", "assistant"], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2 and "--small-only" in refused.stderr
    assert time.monotonic() - begun < 30
    served = Served(free_port(), tmp_path / "jethro.sqlite3", "assistant", "--small-only")
    try:
        served.wait_ready()
        answer = ask(served, HARD)
        assert answer.headers["x-jethro-pool"] == "small"
        assert answer.json()["jethro"]["reason"] == "this endpoint has the small model alone (small_only)"
        assert [m["id"] for m in httpx.get(f"{served.url}/v1/models", timeout=30).json()["data"]] == [
            "jethro",
            "jethro-route",
            "jethro-orchestrate",
            SMALL,
        ]
        assert not any("download" in line or "convert" in line for line in served.said)
    finally:
        assert served.stop() == 0
