"""Comparisons: the same folds for all, resumed after a cut, and a recommendation that does not trust chance."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.decision.target import Target
from serve_app.errors import ConfigError
from serve_app.routing.registry import KINDS
from serve_app.training.comparison import ComparedRouter, ComparisonPlan, cheaper, compare, difference, recommend
from serve_app.training.evaluation import WeightedFigures, evaluate, resampled, scored_queries
from serve_app.training.report import comparison_json, comparison_markdown
from tests.data.samples import answers, sums
from tests.training.fake_routers import FailingRouter, LengthRouter, ScorerRouter


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (LengthRouter, ScorerRouter, FailingRouter):
        monkeypatch.setitem(KINDS, cls.name, f"tests.training.fake_routers:{cls.__name__}")  # type: ignore[arg-type]
        cls.fitted.clear()
        cls.scored.clear()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sums(300, seed=1)


def plan(*kinds: str, **given: object) -> ComparisonPlan:
    return ComparisonPlan(kinds, folds=3, rounds=100, **given)  # type: ignore[arg-type]


def test_the_better_router_comes_first_and_random_is_there(dataset: Dataset, tmp_path: Path) -> None:
    found, refused = compare(dataset, plan("length", "complexity"), tmp_path)
    assert [c.kind for c in found] == ["complexity", "length", "random"] and refused == {}
    best = found[0]
    assert best.apgr > 0.7 and best.drop <= 0.03 and best.share < 0.7
    assert best.quality == pytest.approx(1 - best.drop)
    assert recommend(found).kind == "complexity"


def test_a_cut_comparison_goes_on_where_it_was(dataset: Dataset, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(line: str) -> None:
        if "fold 3" in line and line.startswith("length"):
            raise Cut

    with pytest.raises(Cut):
        compare(dataset, plan("length"), tmp_path, cut)
    assert len(LengthRouter.fitted) == 2
    lines: list[str] = []
    found, _ = compare(dataset, plan("length"), tmp_path, lines.append)
    assert len(LengthRouter.fitted) == 3 and sum("done before" in line for line in lines) == 3 + 2
    whole, _ = compare(dataset, plan("length"), tmp_path / "other")
    assert [c.apgr for c in found] == [c.apgr for c in whole]


def test_other_data_parameters_or_folds_are_not_taken_from_before(dataset: Dataset, tmp_path: Path) -> None:
    compare(dataset, plan("length"), tmp_path)
    for changed in (
        (dataset, plan("length", params={"length": {"scale": 5.0}})),
        (dataset, plan("length", seed=3)),
        (dataset.take(range(200)), plan("length")),
    ):
        before = len(LengthRouter.fitted)
        compare(*changed, tmp_path)
        assert len(LengthRouter.fitted) == before + 3


def test_a_file_that_was_cut_is_made_again(dataset: Dataset, tmp_path: Path) -> None:
    compare(dataset, plan("length"), tmp_path)
    file = next((tmp_path / "scores").glob("length-1-*"))
    file.write_bytes(file.read_bytes()[:100])
    compare(dataset, plan("length"), tmp_path)
    assert len(LengthRouter.fitted) == 4


def test_a_kind_that_fails_is_told_and_the_others_go_on(dataset: Dataset, tmp_path: Path) -> None:
    found, refused = compare(dataset, plan("failing", "length"), tmp_path)
    assert {c.kind for c in found} == {"length", "random"}
    assert refused == {"failing": "failing: not with these data"}
    assert "failing: not" in comparison_markdown(found, refused, plan())
    with pytest.raises(ConfigError, match="not with these data"):
        compare(dataset, plan("failing"), tmp_path)


def test_what_cannot_be_compared_is_refused_before_anything_is_fitted(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="router kind"):
        compare(dataset, plan("length", "none_such"), tmp_path)
    equal = Dataset(dataset.queries, {"small": dataset.strong, "large": dataset.strong}, dataset.groups)
    with pytest.raises(ConfigError, match="equally good"):
        compare(equal, plan("length"), tmp_path)
    assert LengthRouter.fitted == []


def test_thresholds_come_from_the_other_folds(dataset: Dataset, tmp_path: Path) -> None:
    found, _ = compare(dataset, plan("complexity", target=Target.parse("strong-share=0.3")), tmp_path)
    assert found[0].share == pytest.approx(0.3, abs=0.06)


def candidate(
    kind: str, scores: np.ndarray, data: Dataset, placement: str = "inline", ms: float = 1.0
) -> ComparedRouter:
    found = scored_queries(scores, data)
    evaluation = evaluate((kind, "v"), found, rounds=200)
    apgr = resampled(WeightedFigures(found), len(data), 200)["apgr"]
    return ComparedRouter(kind, placement, evaluation, apgr, 0.5, 0.9, 0.0, 1.0, ms)


def world(n: int = 400) -> tuple[Dataset, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(0)
    data = sums(n, seed=2)
    wins = data.strong_win_rate()
    weak = answers("m-small", (1 - wins).tolist())
    return Dataset(data.queries, {"small": weak, "large": data.strong}, data.groups), wins, rng


def test_a_cheaper_router_that_cannot_be_told_from_the_best_is_recommended() -> None:
    data, wins, rng = world()
    good = 0.3 * wins + 0.7 * rng.random(len(data))
    same = np.clip(good + rng.normal(0, 0.02, len(data)), 0, 1)
    chance = candidate("random", rng.random(len(data)), data)
    best, near = candidate("bert", good, data, "scorer", 30.0), candidate("complexity", same, data)
    ranked = sorted([best, near, chance], key=lambda c: -c.apgr)
    found = recommend(ranked)
    assert found.kind == "complexity"
    assert ranked[0].kind == "bert"
    assert "bert leads it by" in found.reason and "cheaper to run (inline, 1 ms a decision" in found.reason


def test_a_lead_that_is_no_chance_is_worth_its_price() -> None:
    data, wins, rng = world()
    best = candidate("bert", 0.6 * wins + 0.4 * rng.random(len(data)), data, "scorer", 30.0)
    worse = candidate("complexity", 0.1 * wins + 0.9 * rng.random(len(data)), data)
    found = recommend([best, worse, candidate("random", rng.random(len(data)), data)])
    assert found.kind == "bert" and "it leads complexity by" in found.reason
    assert difference(best, worse).low > 0


def test_no_router_is_recommended_where_none_beats_chance() -> None:
    data, _, rng = world()
    lucky = candidate("knn", rng.random(len(data)), data)
    found = recommend(sorted([lucky, candidate("random", rng.random(len(data)), data)], key=lambda c: -c.apgr))
    assert found.kind is None and "chance" in found.reason
    assert recommend([candidate("random", rng.random(len(data)), data)]).kind is None


def test_cheaper_is_by_place_then_by_time() -> None:
    data, _, rng = world(20)
    scores = rng.random(20)
    inline, slow = candidate("a", scores, data, ms=9.0), candidate("b", scores, data, "batched", 0.1)
    assert cheaper(inline, slow) and not cheaper(slow, inline)
    fast = candidate("c", scores, data, ms=1.0)
    assert cheaper(fast, inline) and not cheaper(candidate("d", scores, data, ms=0.9), fast)


def test_a_comparison_as_markdown_and_json(dataset: Dataset, tmp_path: Path) -> None:
    asked = plan("length", "complexity")
    found, refused = compare(dataset, asked, tmp_path)
    text = comparison_markdown(found, refused, asked)
    assert "Recommended: complexity: the best APGR" in text and text.count("\n| ") == 4
    body = json.loads(json.dumps(comparison_json(found, refused, asked, dataset), allow_nan=False))
    assert body["recommended"] == "complexity" and body["routers"][0]["kind"] == "complexity"
    assert body["routers"][0]["apgr_behind_best"]["value"] == 0.0
    assert body["routers"][0]["apgr_over_random"]["low"] > 0
