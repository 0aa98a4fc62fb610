""""""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.kinds.best_route import best_of, match_rate

ROWS = st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=1, max_size=6)


@given(ROWS, st.data())
def test_best_of_is_the_mean_maximum_over_all_draws(row: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(row)))
    expected = np.mean([max(draw) for draw in combinations(row, n)])
    assert best_of(np.array([row]), n)[0] == pytest.approx(expected)


@given(ROWS, ROWS, st.sampled_from([0.0, 0.25]), st.data())
def test_match_rate_counts_all_draws_and_all_references(
    row: list[float], reference: list[float], margin: float, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(row)))
    expected = np.mean([max(draw) >= r - margin for draw in combinations(row, n) for r in reference])
    assert match_rate(np.array([row]), np.array([reference]), n, margin)[0] == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_there_are_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="between 1"):
        best_of(np.zeros((2, 3)), n)
    with pytest.raises(ValueError, match="between 1"):
        match_rate(np.zeros((2, 3)), np.zeros((2, 3)), n)
