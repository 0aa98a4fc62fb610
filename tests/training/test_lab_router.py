""""""

from pathlib import Path

import numpy as np
import pytest

from serve_app.decision.threshold import Calibration
from serve_app.learning.metrics import auc
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.registry import load_router, router_names
from serve_app.training.lab_router import (
    MOST_STRONG,
    PARAMS,
    TARGET_DROP,
    LabRouterPlan,
    cross_scores,
    default_threshold,
    train,
)
from tests.data.samples import sums


def test_trains_calibrates_and_registers_from_kept_answers(tmp_path: Path) -> None:
    data, out = tmp_path / "answers.parquet", tmp_path / "router"
    answers = sums(400, seed=4)
    answers.save(data)
    said: list[str] = []
    metrics = train(tmp_path / "no-models-needed", out, LabRouterPlan(n=400, data=data), said.append)
    found = load_router(str(out))
    assert found.models == ("m-small", "m-large") and found.card["data"]["digest"] == answers.digest()
    assert found.calibration is not None and len(found.calibration.scores) == 400
    assert metrics["auc"] == 1.0 and metrics["quality_drop"] <= TARGET_DROP + 1e-9
    unseen = sums(300, seed=5)
    strong = found.router.score(unseen.queries) >= found.threshold
    assert (strong == (unseen.strong_win_rate() == 1)).mean() > 0.98
    assert "strong calls" in said[-1]


def test_every_kind_that_ships_can_be_made_and_lies_in_the_package() -> None:
    assert [LabRouterPlan(kind, seed=3).router().params["seed"] for kind in PARAMS] == [3] * len(PARAMS)
    of_other_models = {"random", "assistant"}
    assert set(router_names()) - of_other_models == set(PARAMS)


def test_cross_scores_come_from_routers_that_did_not_see_the_query() -> None:
    """Outcomes that nothing explains: only the scores of a router that met them before are far from chance."""
    data = sums(400, seed=6)
    coins = np.random.default_rng(0).random(400) < 0.5
    data.pools["small"].quality[:, 0] = coins
    scores = cross_scores(data, LabRouterPlan())
    assert scores.shape == (400,) and abs(auc(scores, ~coins) - 0.5) < 0.1
    assert abs(auc(ComplexityRouter(0).fit(data).score(data.queries), ~coins) - 0.5) > 0.2


def test_the_default_threshold_is_the_drop_or_the_most_strong_calls() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    tokens = np.ones((n, 2))
    wrong = rng.random(n) < 0.4
    sharp = Calibration(0.5 * wrong + 0.4 * rng.random(n), 1.0 - wrong, np.ones(n), tokens, tokens)
    blunt = Calibration(rng.random(n), 1.0 - wrong, np.ones(n), tokens, tokens)
    assert default_threshold(sharp).drop <= TARGET_DROP + 1e-9 and default_threshold(sharp).share <= 0.42
    assert default_threshold(blunt).share == pytest.approx(MOST_STRONG, abs=1e-3)


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model"):
        train(tmp_path, tmp_path / "out", LabRouterPlan(n=10))
