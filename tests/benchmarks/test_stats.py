"""Percentiles and summaries."""

import math

import pytest

from benchmarks.stats import median, percentile, summary


def test_percentiles_are_linear_between_neighbours() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile([10.0, 20.0], 95) == pytest.approx(19.5)
    assert percentile([5.0], 99) == 5.0
    assert median([3.0, 1.0, 2.0]) == 2.0


def test_no_values_give_nan() -> None:
    assert math.isnan(percentile([], 50))


def test_a_percentile_beyond_100_is_refused() -> None:
    with pytest.raises(ValueError, match="101"):
        percentile([1.0], 101)


def test_summary_has_vllm_keys_in_milliseconds() -> None:
    found = summary("ttft", [0.1, 0.3], [99])
    assert found == {
        "mean_ttft_ms": pytest.approx(200),
        "median_ttft_ms": pytest.approx(200),
        "std_ttft_ms": pytest.approx(100),
        "p99_ttft_ms": pytest.approx(298),
    }


def test_summary_of_nothing_is_zero_under_the_same_keys() -> None:
    assert summary("itl", [], [95, 99.9]).keys() == summary("itl", [0.1], [95, 99.9]).keys()
    assert set(summary("itl", [], [95]).values()) == {0.0}
