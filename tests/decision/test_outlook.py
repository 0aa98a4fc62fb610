""""""

import numpy as np
import pytest

from serve_app.decision.threshold import Calibration, ExpectedOutcome
from tests.routing.fakes import FakePool

WEAK, STRONG = FakePool("small"), FakePool("large")


def test_quality_and_cost_among_queries_of_similar_score() -> None:
    n = 200
    scores = np.linspace(0, 1, n)
    tokens = np.column_stack([np.full(n, 7.0), np.full(n, 2.0)])
    expected = ExpectedOutcome(Calibration(scores, 1 - np.round(scores), np.ones(n), tokens, 2 * tokens), WEAK, STRONG)
    low, high = expected.at(0.1), expected.at(0.9)
    assert low["small"] == {"quality": 1.0, "cost_usd": pytest.approx(27e-6)}
    assert high["small"]["quality"] == 0.0 and high["large"] == {"quality": 1.0, "cost_usd": pytest.approx(54e-6)}
    assert expected.at(0.91) is expected.at(0.94)


@pytest.mark.parametrize("score", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_any_score_has_an_expected_outcome_even_with_one_calibration_query(score: float) -> None:
    one, tokens = np.array([0.5]), np.ones((1, 2))
    expected = ExpectedOutcome(Calibration(one, one, one, tokens, tokens), WEAK, STRONG)
    assert expected.at(score)["large"]["quality"] == 0.5


def test_equal_scores_share_a_bin() -> None:
    n = 100
    tokens = np.ones((n, 2))
    expected = ExpectedOutcome(Calibration(np.full(n, 0.5), np.zeros(n), np.ones(n), tokens, tokens), WEAK, STRONG)
    assert expected.at(0.1) is expected.at(0.9)
