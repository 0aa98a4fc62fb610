"""Arrival times of the open loop."""

import numpy as np
import pytest

from benchmarks.arrivals import arrival_times_s


def test_the_same_seed_gives_the_same_times() -> None:
    first = arrival_times_s(100, 10, 1.0, seed=3)
    assert np.array_equal(first, arrival_times_s(100, 10, 1.0, seed=3))
    assert not np.array_equal(first, arrival_times_s(100, 10, 1.0, seed=4))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    gaps = np.diff(arrival_times_s(40_000, 50, burstiness, seed=0))
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_times_begin_at_zero_and_infinite_rate_is_all_at_once() -> None:
    assert arrival_times_s(5, 1, 1, seed=0)[0] == 0
    assert arrival_times_s(5, float("inf"), 1, seed=0).tolist() == [0] * 5
    assert arrival_times_s(0, 1, 1, seed=0).tolist() == []


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_what_is_not_positive_is_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        arrival_times_s(5, rate, burstiness, seed=0)
