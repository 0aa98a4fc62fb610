from pathlib import Path

import numpy as np
import pytest

from serve_app.learning.lab_router import MOST_STRONG, TARGET_DROP, ask, default_threshold, train
from serve_app.routing.registry import load_router
from serve_app.routing.threshold import Calibration
from tests.learning.data import sums


def test_trains_calibrates_and_registers_from_kept_answers(tmp_path: Path) -> None:
    data, out = tmp_path / "answers.jsonl.gz", tmp_path / "router"
    answers = sums(400, seed=4)
    answers.save(data)
    said: list[str] = []
    metrics = train(tmp_path / "no-models-needed", out, 400, 0, said.append, data)
    found = load_router(str(out))
    assert found.models == ("m-small", "m-large") and found.card["data"]["digest"] == answers.digest()
    assert found.card["data"]["fitted_on"] + found.card["data"]["calibrated_on"] == 400
    assert metrics["auc"] == 1.0 and metrics["quality_drop"] <= TARGET_DROP
    unseen = sums(300, seed=5)
    strong = found.router.score(unseen.queries) >= found.threshold
    assert (strong == (unseen.strong_win_rate() == 1)).mean() > 0.98
    assert "strong calls" in said[-1]


def test_the_default_threshold_is_the_drop_or_the_most_strong_calls() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    tokens = np.ones((n, 2))
    wrong = rng.random(n) < 0.4
    sharp = Calibration(0.5 * wrong + 0.4 * rng.random(n), 1.0 - wrong, np.ones(n), tokens, tokens)
    blunt = Calibration(rng.random(n), 1.0 - wrong, np.ones(n), tokens, tokens)
    assert default_threshold(sharp).drop <= TARGET_DROP + 1e-9 and default_threshold(sharp).share <= 0.42
    assert default_threshold(blunt).share == pytest.approx(MOST_STRONG, abs=1e-3)


def test_missing_weights_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model"):
        ask(tmp_path, 10, 0, "learn")
