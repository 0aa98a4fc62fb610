""""""

import numpy as np
import pytest

from serve_app.decision.threshold import Calibration
from serve_app.training.evaluation import router_metrics


def test_figures_by_hand() -> None:
    one = np.ones((4, 2))
    data = Calibration(np.array([0.9, 0.1, 0.6, 0.3]), np.array([0.0, 1, 0, 1]), np.array([1.0, 1, 1, 0]), one, one)
    found = router_metrics(data, threshold=0.5)
    assert found["strong_share"] == 0.5 and found["quality"] == 1.0
    assert found["quality_drop"] == pytest.approx((0.75 - 1.0) / 0.75)
    assert found["auc"] == 1.0 and found["apgr"] == pytest.approx(1.125)
    low, high = found["quality_drop_interval"]  # type: ignore[misc]
    assert low <= found["quality_drop"] <= high
    assert found["calibration_error"] == pytest.approx((0.1 + 0.1 + 0.4 + 0.3) / 4)


def test_pools_of_equal_quality_have_no_gap_figures() -> None:
    one = np.ones((4, 2))
    found = router_metrics(Calibration(np.linspace(0, 1, 4), np.ones(4), np.ones(4), one, one), 0.5)
    assert "apgr" not in found and "auc" not in found and found["quality_drop"] == 0.0
