""""""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from serve_app.errors import ConfigError, DataError
from serve_app.routing.registry import Registry
from serve_app.training.artefacts import open_router
from serve_app.training.refresh import RefreshPlan, _split, compared, highest, refresh
from serve_app.training.training import Trained, TrainingRun, register, train
from tests.data.samples import sums

PLAN = RefreshPlan("fresh.parquet")


OLD = sums(300, seed=1)


@cache
def trained() -> Trained:
    """What the version that serves was made from: one run, registered by each test in a registry of its own."""
    return train(TrainingRun("complexity", "old.parquet", folds=3, seed=5), OLD)


def registered(registry: Registry) -> str:
    return register(trained(), OLD, registry, "mine")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.mark.slow
def test_traffic_that_turned_round_is_learned_and_served(registry: Registry) -> None:
    old = registered(registry)
    said: list[str] = []
    found = refresh("mine", sums(400, seed=2, flipped=True), registry, PLAN, said.append)
    assert found.not_worse and found.swapped and found.difference.low > 0.2
    assert registry.current("mine") == found.fresh != old == found.served
    assert found.served_apgr is not None and found.fresh_apgr is not None and found.fresh_apgr > found.served_apgr
    assert "mine serves it" in found.summary() and "complexity" in said[0]
    run = open_router(registry, "mine").folder
    assert run is not None and '"data": "fresh.parquet"' in (run / "run.json").read_text("utf-8")
    assert '"seed": 5' in (run / "run.json").read_text("utf-8")


def test_data_that_teach_nothing_do_not_take_the_place_of_what_was_learned(registry: Registry) -> None:
    old = registered(registry)
    noise = sums(400, seed=2)
    held_right = noise.pools["small"].quality.copy()
    rng = np.random.default_rng(0)
    noise.pools["small"].quality[:, 0] = rng.permutation(held_right[:, 0])
    fresh = refresh("mine", noise, registry, PLAN)
    assert fresh.fresh in registry.versions("mine")
    truth = sums(400, seed=3)
    new = open_router(registry, f"mine@{fresh.fresh}").registered.router
    found = compared(open_router(registry, f"mine@{old}"), new.score(truth.queries), truth, PLAN)
    assert not found.not_worse and found.difference.high < 0 and "it is worse" in replace(found, fresh="x").summary()


def test_as_good_as_before_may_serve_but_not_against_the_operators_word(registry: Registry) -> None:
    old = registered(registry)
    found = refresh("mine", sums(400, seed=2), registry, replace(PLAN, swap=False))
    assert found.not_worse and not found.swapped and registry.current("mine") == old
    assert "jethro router use" in found.summary()
    assert found.not_worse


def test_what_cannot_be_shown_is_not_taken_on_trust(registry: Registry) -> None:
    """As good in truth, but answers vary much and few are held back."""
    registered(registry)
    held = sums(60, seed=4)
    held.pools["large"].quality[:, 0] = np.random.default_rng(0).random(60) < 0.6
    served = open_router(registry, "mine")
    scores = np.random.default_rng(1).random(60)
    found = compared(served, scores, held, PLAN)
    assert found.difference.low < 0 and not found.not_worse
    if found.difference.high >= 0:
        assert "few queries" in found.summary()


def test_queries_that_the_old_version_knows_are_not_held_against_the_new_one(registry: Registry) -> None:
    registered(registry)
    with pytest.raises(DataError, match="0 of 300 queries"):
        refresh("mine", OLD, registry, PLAN)


def test_a_shipped_router_is_refreshed_by_its_kind_under_a_name_of_its_own(registry: Registry) -> None:
    shipped = registry.current("complexity")
    found = refresh("complexity", sums(400, seed=2), registry, PLAN)
    assert found.served == shipped and registry.versions("complexity") == [shipped]
    assert found.name == "my_complexity" and registry.versions("my_complexity") == [found.fresh]
    assert registry.current("complexity") == shipped


def test_random_and_unknown_routers_are_refused(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="random"):
        refresh("random", sums(400, seed=2), registry, PLAN)
    with pytest.raises(ConfigError, match="no router 'other'"):
        refresh("other", sums(400, seed=2), registry, PLAN)


def test_one_sided_data_are_refused(registry: Registry) -> None:
    registered(registry)
    fresh = sums(400, seed=2)
    fresh.pools["small"].quality[:] = 1.0
    with pytest.raises(DataError):
        refresh("mine", fresh, registry, PLAN)
    assert len(registry.versions("mine")) == 1


def test_battles_about_what_is_held_back_are_not_learned_from(registry: Registry) -> None:
    registered(registry)
    fresh = sums(400, seed=2)
    fresh = replace(fresh, preferences=fresh.battles())
    learn, held = _split(open_router(registry, "mine"), fresh, PLAN)
    assert learn.preferences is not None and 0 < len(learn.preferences) < 400
    assert not {q.text for q in learn.preferences.queries} & {q.text for q in held.queries}
    assert not {q.text for q in learn.queries} & {q.text for q in held.queries}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_the_highest_share_of_scores_ties_in_parts(share: float) -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.2, 0.5, 0.3])
    parts = highest(scores, share)
    assert parts.sum() == pytest.approx(share * 8) and ((parts >= 0) & (parts <= 1)).all()
    assert len(set(parts[scores == 0.5].round(12))) == 1
    assert (np.diff(parts[np.argsort(-scores, kind="stable")]) <= 1e-12).all()
