"""What a tuning offers and what it does not, on answers of two model doubles without any server."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.decision.target import Target
from serve_app.errors import DataError
from serve_app.routing.registry import Registry
from serve_app.training.tuning import FEWEST, Tuned, TuningPlan, tune
from serve_app.training.tuning_report import plot_tuning, summary, tuning_json, tuning_markdown
from serve_app.types import Message, Query
from tests.cli.model_doubles import STRONG, WEAK, answer_of, prompts

QUICK = TuningPlan(kinds=("complexity",), folds=3)


def answers(n: int, seed: int, weak_usd: float = 1e-5, strong_usd: float = 2e-4) -> Dataset:
    rows = prompts(n, seed)
    pools = {}
    for name, model, usd in (("small", WEAK, weak_usd), ("large", STRONG, strong_usd)):
        texts = [answer_of(model, row["prompt"])[0] for row in rows]
        right = np.array([[float(text == row["reference"])] for text, row in zip(texts, rows, strict=True)])
        one = np.ones_like(right)
        pools[name] = PoolAnswers(model, tuple((text,) for text in texts), right, usd * one, 20 * one, 2 * one)
    queries = tuple(Query((Message("user", row["prompt"]),)) for row in rows)
    return Dataset(queries, pools, ("",) * n)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Tuned:
    return tune(answers(600, seed=1), QUICK, folder, Registry(folder / "registry"))


def test_a_router_is_offered_with_honest_figures(tuned):
    assert tuned.useful and tuned.kind == "complexity" and tuned.advice == ""
    assert sum(tuned.parts.values()) == 600 and tuned.evaluation.queries == tuned.parts["test"] == 180
    point = tuned.points[0]
    assert point.target == "quality-drop=0.01" and len({p.target for p in tuned.points}) == len(tuned.points) == 7
    assert point.gain.low > 0, "better than as many strong calls at random"
    saved = (1 - point.share.value) * (2e-4 - 1e-5)
    assert point.saved_usd.value == pytest.approx(saved) and point.saved_usd.low < saved < point.saved_usd.high
    assert tuned.weak.quality.value < point.quality.value <= tuned.strong.quality.value + 0.02


def test_the_page_says_what_it_saves_at_the_operators_volume(tuned, tmp_path):
    text = tuning_markdown(tuned, 300_000, "number")
    monthly = 300_000 * tuned.points[0].saved_usd.value
    assert f"${monthly:,.2f}" in text and "at 300,000 queries" in text and "**recommended:**" in text
    assert "**" not in summary(tuned, 300_000) and "`" not in summary(tuned, 300_000)
    body = tuning_json(tuned, 300_000, "number")
    assert body["offered"] and body["points"][0]["saved_usd"]["value"] == pytest.approx(tuned.points[0].saved_usd.value)
    plot_tuning(tuned, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_without_prices_nothing_is_said_of_money(tmp_path):
    found = tune(answers(300, 3, 0.0, 0.0), QUICK, tmp_path, Registry(tmp_path / "r"))
    text = tuning_markdown(found, 1000, "number")
    assert "$" not in text
    assert not found.useful or "no prices" in text


def test_a_router_without_use_reaches_no_registry(tmp_path):
    """Which answer is right is drawn by chance: no router can know."""
    data, rng = answers(400, 5), np.random.default_rng(0)
    rates = {"small": 0.6, "large": 0.93}
    pools = {
        name: replace(pool, quality=(rng.random((400, 1)) < rates[name]).astype(float))
        for name, pool in data.pools.items()
    }
    registry = Registry(tmp_path / "registry")
    found = tune(replace(data, pools=pools), QUICK, tmp_path, registry)
    assert not found.useful and "beat" in found.reason and found.advice.startswith("call the large model")
    assert "tuned" not in registry.names()
    assert "No router is recommended" in tuning_markdown(found, 1000, "number")


def test_a_target_that_takes_every_call_to_the_large_model_saves_nothing(tmp_path):
    plan = TuningPlan(("complexity",), Target.parse("strong-share=1"), folds=3)
    found = tune(answers(600, 1), plan, tmp_path, Registry(tmp_path / "r"))
    assert not found.useful and "saves nothing" in found.reason


def test_a_small_model_that_costs_more_saves_nothing(tmp_path):
    found = tune(answers(600, 1, weak_usd=1e-3), QUICK, tmp_path, Registry(tmp_path / "r"))
    assert not found.useful and "costs more than the large one" in found.reason


def test_too_few_are_refused(tmp_path):
    with pytest.raises(DataError, match="too few"):
        tune(answers(FEWEST - 1, 1), QUICK, tmp_path, Registry(tmp_path / "r"))


def test_a_version_is_adopted_whole_and_does_not_serve(tuned, folder):
    one, other = Registry(folder / "routers"), Registry(folder / "registry")
    assert other.versions("tuned") == [tuned.version] and other.default() is None
    files = {p.name: p.read_bytes() for p in one.path("tuned", tuned.version).iterdir()}
    assert {p.name: p.read_bytes() for p in other.path("tuned", tuned.version).iterdir()} == files
    other.adopt(one, "tuned", tuned.version)
    assert not [p for p in (folder / "registry" / "tuned").iterdir() if p.name.startswith(".")], "no draft is left"
    assert other.load("tuned", tuned.version).models == (WEAK, STRONG)
