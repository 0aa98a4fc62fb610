"""Training: scores by routers that have not seen what they score, the artefact, and the same again from its run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import load_fingerprints
from serve_app.decision.target import Guarantee, Target
from serve_app.errors import ConfigError, DataError
from serve_app.routing.registry import KINDS, Registry
from serve_app.training.artefacts import learned_from, open_router, unlearned
from serve_app.training.training import (
    Trained,
    TrainingRun,
    changed_libraries,
    data_digest,
    default_folds,
    honest_scores,
    new_router,
    recalibrate,
    register,
    train,
)
from tests.data.samples import sums
from tests.training.fake_routers import LengthRouter


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (("length", "LengthRouter"), ("heavy", "ScorerRouter"), ("failing", "FailingRouter")):
        monkeypatch.setitem(KINDS, name, f"tests.training.fake_routers:{cls}")  # type: ignore[arg-type]
    LengthRouter.fitted.clear()
    LengthRouter.scored.clear()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sums(300, seed=1)


@pytest.fixture(scope="module")
def complexity(dataset: Dataset) -> Trained:
    """A run of the complexity router, to be registered."""
    return train(run("complexity"), dataset)


def run(kind: str = "length", **given: object) -> TrainingRun:
    return TrainingRun(kind, "data.parquet", **given)  # type: ignore[arg-type]


def test_every_query_is_scored_once_by_a_router_that_was_not_fitted_on_it(dataset: Dataset) -> None:
    scores, rows, kept = honest_scores(run(folds=4), dataset)
    assert kept is None and rows.tolist() == list(range(300)) and np.isfinite(scores).all()
    assert len(LengthRouter.fitted) == len(LengthRouter.scored) == 4
    for fitted, scored in zip(LengthRouter.fitted, LengthRouter.scored, strict=True):
        assert not set(fitted) & set(scored)
        assert len(fitted) + len(scored) == 300
    assert scores.tolist() == LengthRouter().score(dataset.queries).tolist()


def test_with_one_fold_a_fifth_is_held_back_from_the_router_that_serves(dataset: Dataset) -> None:
    trained = train(run(folds=1), dataset)
    assert len(LengthRouter.fitted) == 1 and not trained.refitted
    assert len(trained.calibration) == pytest.approx(60, abs=6)
    assert not set(LengthRouter.fitted[0]) & set(LengthRouter.scored[0])


def test_cross_fitted_routers_serve_fitted_on_all(dataset: Dataset) -> None:
    trained = train(run(folds=3), dataset)
    assert trained.refitted and len(LengthRouter.fitted) == 4
    assert sorted(LengthRouter.fitted[-1]) == sorted(q.text for q in dataset.queries)


@pytest.mark.parametrize(
    ("kind", "folds"), [("length", 5), ("complexity", 5), ("heavy", 1), ("hybrid_prob", 1), ("bert", 1)]
)
def test_kinds_that_take_long_are_fitted_once(kind: str, folds: int) -> None:
    assert default_folds(kind) == folds


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("none_such", {}, "'none_such'.* bert"),
        ("length", {"depth": 3}, "length: .*'depth'.* scale, seed"),
        ("length", {"scale": -1}, "length: scale is -1"),
    ],
)
def test_what_no_router_takes_is_refused(kind: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        new_router(kind, params)


def test_the_seed_reaches_kinds_that_take_one_unless_they_are_given_another() -> None:
    assert new_router("length", {}, 7).params["seed"] == 7
    assert new_router("length", {"seed": 3}, 7).params["seed"] == 3
    assert new_router("length", {}).params["seed"] == 0


def test_a_run_writes_every_parameter_out_but_the_seed_once(dataset: Dataset) -> None:
    assert train(run(folds=1), dataset).run.params == {"scale": 20.0}
    assert train(run(folds=1, params={"scale": 5.0, "seed": 3}), dataset).run.params == {"scale": 5.0, "seed": 3}


def test_too_few_different_queries_cannot_be_split() -> None:
    with pytest.raises(DataError, match="folds"):
        train(run(folds=5), sums(2, seed=0))


def test_an_artefact_tells_how_it_came_about_and_what_it_learned_from(dataset: Dataset, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    spec = run("complexity", folds=2, target="strong-share=0.4", digest=dataset.digest())
    version = register(train(spec, dataset), dataset, registry, "mine")
    folder = registry.path("mine", version)
    card = json.loads((folder / "card.json").read_text("utf-8"))
    params = dict(registry.load("mine").router.params)
    assert card["data"]["digest"] == dataset.digest() and card["data"]["calibration"] == "cross-fitted"
    assert card["target"] == "share <= 0.4" and card["metrics"]["strong_share"] <= 0.4
    assert card["models"] == {"weak": "m-small", "strong": "m-large"}
    kept = TrainingRun.read(folder / "run.json")
    assert replace(kept, params={}) == spec and kept.params == {k: v for k, v in params.items() if k != "seed"}
    seen = load_fingerprints(folder)
    assert seen is not None and len(seen) == len({q.text.replace("?", "") for q in dataset.queries})


@pytest.mark.slow
def test_the_same_run_gives_the_same_version(dataset: Dataset, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    spec = run("complexity", folds=2, seed=5)
    first = register(train(spec, dataset), dataset, registry, "mine")
    again = TrainingRun.read(registry.path("mine", first) / "run.json")
    assert register(train(again, dataset), dataset, registry, "mine") == first
    other = register(train(replace(spec, seed=6), dataset), dataset, registry, "mine")
    assert other != first and registry.versions("mine") == [first, other]


def test_calibrating_makes_a_version_with_the_same_router_and_another_threshold(
    dataset: Dataset, complexity: Trained, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    first = register(complexity, dataset, registry, "mine")
    fresh = unlearned(open_router(registry, "mine"), sums(400, seed=8), "fresh", True, print)
    version = recalibrate(open_router(registry, "mine"), fresh, Target.parse("strong-share=0.2"), None, registry)
    assert registry.current("mine") == first and version != first
    before, after = (registry.load("mine", v) for v in (first, version))
    assert (after.router.score(fresh.queries) == before.router.score(fresh.queries)).all()
    assert (after.router.score(fresh.queries) >= after.threshold).mean() <= 0.2
    assert after.card["data"]["calibration"] == "fresh"
    told = json.loads((registry.path("mine", version) / "run.json").read_text("utf-8"))["run"]["calibrated"]
    assert told == {"target": "strong-share=0.2", "guarantee": None, "of": first, "queries": len(fresh)}
    with pytest.raises(DataError, match="learned from"):  # its calibration queries count as learned from
        unlearned(open_router(registry, f"mine@{version}"), fresh, "fresh", False, print)


def test_a_calibration_may_promise(dataset: Dataset, complexity: Trained, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(complexity, dataset, registry, "mine")
    fresh = unlearned(open_router(registry, "mine"), sums(600, seed=8), "fresh", True, print)
    target = Target.parse("quality-drop=0.1")
    version = recalibrate(open_router(registry, "mine"), fresh, target, Guarantee("ltt", 0.1), registry)
    card = registry.load("mine", version).card
    assert card["target"] == "drop <= 0.1 with confidence 0.9"
    assert card["metrics"]["quality_drop"] <= 0.1 and card["metrics"]["strong_share"] < 0.9


def test_battles_beside_the_data_count_as_learned_from(dataset: Dataset, tmp_path: Path) -> None:
    other = sums(20, seed=9)
    both = replace(dataset, preferences=other.battles())
    assert data_digest(dataset) == dataset.digest() != data_digest(both)
    assert data_digest(both) == data_digest(replace(dataset, preferences=sums(20, seed=9).battles()))
    assert data_digest(both) != data_digest(replace(dataset, preferences=sums(20, seed=10).battles()))
    registry = Registry(tmp_path)
    register(train(run("complexity", folds=2), both), both, registry, "mine")
    assert len(learned_from(open_router(registry, "mine"), other)) == 20


def test_random_has_nothing_to_calibrate(dataset: Dataset, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ConfigError, match="calibrate"):
        recalibrate(open_router(registry, "random"), dataset, Target.parse("strong-share=0.2"), None, registry)


def test_the_report_tells_each_fold(dataset: Dataset) -> None:
    lines: list[str] = []
    train(run(folds=2), dataset, lines.append)
    assert lines[0].startswith("length: fold 1 of 2: fitting on ") and "  fitted" in lines
    assert lines[-2] == "length: fitting on all 300 queries"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("- 1", "object"),
        ("{kind: knn}", "data .*missing"),
        ("{kind: knn, data: d, fold: 3}", "unknown key 'fold'"),
        ("{kind: knn, data: d, folds: many}", "folds .*'many'"),
        ("{kind: knn, data: d, seed: true}", "seed is True"),
        ("{kind: knn, data: d, params: [1]}", r"params is \[1\]"),
        ("{kind: knn, data: d, folds: 0}", "folds is 0"),
        ("{", "cannot be read"),
    ],
)
def test_a_run_that_cannot_be_is_refused(body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(body, "utf-8")
    with pytest.raises(ConfigError, match=message):
        TrainingRun.read(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        TrainingRun.read(tmp_path / "none.yaml")


def test_a_run_may_be_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("kind: knn\ndata: d.parquet\nparams: {neighbours: 40}\n", "utf-8")
    found = TrainingRun.read(tmp_path / "run.yaml")
    assert found == TrainingRun("knn", "d.parquet", {"neighbours": 40})
    assert changed_libraries(tmp_path / "run.yaml") == []


def test_other_libraries_than_then_are_told(tmp_path: Path) -> None:
    body = run().to_json()
    body["libraries"] = {**body["libraries"], "numpy": "1.0"}
    (tmp_path / "run.json").write_text(json.dumps({"registered_s": 1.0, "run": body}), "utf-8")
    assert [line.split(" -> ")[0] for line in changed_libraries(tmp_path / "run.json")] == ["numpy 1.0"]
