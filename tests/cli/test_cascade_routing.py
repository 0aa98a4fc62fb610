import json

import numpy as np
import pytest
from typer.testing import CliRunner

from serve_app.cascade.routing.router import load_routing
from serve_app.cli.main import app
from tests.cascade.routing.worlds import made_up


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Recorded answers in a file."""
    recorded = made_up(240, models=("weak", "strong"))
    path = tmp_path_factory.mktemp("recorded") / "answers.jsonl"
    with path.open("w") as out:
        for row, prompt in enumerate(recorded.prompts):
            answers = {
                model: {
                    "ok": recorded.ok[row, m],
                    "cost": recorded.cost_usd[row, m],
                    "conf": recorded.confidence[row, m],
                    "ans": recorded.evidence[row][m].text,
                    "tokens": [[recorded.evidence[row][m].text, recorded.confidence[row, m], []]],
                }
                for m, model in enumerate(recorded.models)
            }
            out.write(json.dumps({"split": recorded.splits[row], "prompt": prompt, "prior": 0.3, "m": answers}) + "\n")
    return path


def run(*words):
    return CliRunner().invoke(app, ["cascade", "fit-routing", *map(str, words)])


def test_a_router_is_fitted_saved_and_described(data, tmp_path):
    done = run(
        "--data", data, "--budget", "40%", "--signals", "sum_logprob", "--split", "train", "--out", tmp_path / "r"
    )
    assert done.exit_code == 0, done.output
    router = load_routing(tmp_path / "r")
    assert router.version in done.output
    assert "called: weak" in done.output
    assert [s.name for s in router.signals.values()] == ["sum_logprob", "sum_logprob"]
    recorded = made_up(240, models=("weak", "strong")).split("train")
    assert router.data["budget_usd"] == pytest.approx(0.4 * recorded.cost_usd[:, 1].mean())


def test_the_recorded_confidence_will_do(data, tmp_path):
    done = run("--data", data, "--budget", "0.0004", "--signals", "recorded", "--out", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert set(load_routing(tmp_path / "r").signals.values()) == {None}


def test_in_order_it_is_a_cascade(data, tmp_path):
    words = ("--data", data, "--budget", "40%", "--signals", "recorded", "--in-order", "--out", tmp_path / "r")
    assert run(*words).exit_code == 0
    router = load_routing(tmp_path / "r")
    assert router.data["form"] == router.mixture.dear.form == "prefix"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--budget", "much"], "neither US dollars"),
        (["--budget", "-1"], "neither US dollars"),
        (["--budget", "0.1%", "--signals", "recorded"], "cannot be kept"),
        (["--budget", "40%", "--signals", "hunch"], "'hunch' is not known"),
        (["--budget", "40%", "--models", "weak,absent"], "absent"),
        (["--budget", "40%", "--models", "weak"], "2 to 8 models"),
        (["--budget", "40%", "--split", "dev"], "no split 'dev'"),
    ],
)
def test_mistakes_are_one_sentence(data, tmp_path, words, says):
    done = run("--data", data, "--out", tmp_path / "r", *words)
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "r").exists()


@pytest.fixture
def noise(tmp_path):
    """Answers whose confidence and text say nothing about them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.jsonl"
    with path.open("w") as out:
        for i in range(150):
            answers = {
                model: {"ok": int(rng.random() < 0.7), "cost": cost, "conf": rng.normal(), "ans": f"{rng.integers(9)}"}
                for model, cost in (("weak", 1e-4), ("strong", 1.2e-4))
            }
            out.write(json.dumps({"prompt": f"query {i}", "m": answers}) + "\n")
    return path


def test_a_router_that_would_call_single_models_is_refused_unless_asked_for(noise, tmp_path):
    words = ("--data", noise, "--budget", "170%", "--signals", "recorded", "--out", tmp_path / "r")
    refused = run(*words)
    assert refused.exit_code == 2 and "single models are better" in refused.stderr and "--fall-back" in refused.stderr
    assert not (tmp_path / "r").exists()
    done = run(*words, "--fall-back")
    assert done.exit_code == 0 and "calls single models, whatever they answer" in done.stdout
    assert load_routing(tmp_path / "r").data["fell_back"]
