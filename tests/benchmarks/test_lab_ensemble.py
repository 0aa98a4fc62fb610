"""The benchmark of the lab's ensemble: what it computes from answers, and when it says that a target is missed."""

import numpy as np
import pytest

from benchmarks import lab_ensemble
from benchmarks.lab_ensemble import FUSED, MEMBERS, RANKED, STRONG, Method, figures, missed, text


def methods(ranked: list[float], fused: list[float], bubble: float = 0.55) -> list[Method]:
    """Four queries of which three can be answered, each twenty-five times."""
    cost = np.full(100, 2e-6)
    alone = np.repeat([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], 25, axis=1)
    return [
        *(Method(n, q.astype(float), cost / 4, True) for n, q in zip(MEMBERS, alone, strict=True)),
        Method(STRONG, np.ones(100), cost, True),
        Method("random pick", np.mean(alone, axis=0), cost),
        Method("bubble", np.full(100, bubble), cost),
        Method(RANKED, np.repeat(ranked, 25), cost),
        Method(FUSED, np.repeat(fused, 25), cost),
        Method("oracle", np.max(alone, axis=0).astype(float), cost),
    ]


def test_gap_closed() -> None:
    found = {one["name"]: one for one in figures(methods([1, 1, 1, 0], [1, 1, 1, 0]))}
    assert [name for name, one in found.items() if one["best_single"]] == ["numbers"]
    assert found[RANKED]["gap_closed"] == 1.0
    assert found["numbers"]["gap_closed"] == 0.0
    assert found[RANKED]["usd_per_thousand"] == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("ranked", "fused", "bubble", "count"),
    [
        ([1, 1, 1, 0], [1, 1, 1, 0], 0.55, 0),
        ([1, 1, 0, 0], [1, 1, 0, 0], 0.45, 1),
        ([1, 1, 1, 0], [1, 1, 0, 0], 0.55, 1),
        ([1, 1, 1, 0], [1, 1, 1, 0], 0.9, 1),
        ([1, 1, 1, 0], [1, 1, 1, 0], 0.1, 1),
    ],
)
def test_what_is_missed(ranked: list[float], fused: list[float], bubble: float, count: int) -> None:
    assert len(missed(figures(methods(ranked, fused, bubble)))) == count


def test_the_table_says_it_all() -> None:
    rows = figures(methods([1, 1, 1, 0], [1, 1, 1, 0]))
    http = [{"name": "vote", "n": 4, "quality": 0.5, "usd_per_thousand": 1e-3, "tokens": 9.0, "p50_ms": 1, "p95_ms": 2}]
    stamp = {"date": "2026-01-01T00:00Z", "commit": "c", "cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0}
    said = text({"n": 4, "methods": rows, "http": http, "missed": ["one thing"], "environment": stamp})
    assert "**numbers** (best single)" in said and "Missed: one thing." in said and "vote" in said


def test_bubble_and_vote() -> None:
    matrix = np.array([[0.0, 2.0, 2.0], [-2.0, 0.0, 1.0], [-2.0, -1.0, 0.0]])
    assert {lab_ensemble._bubbled(matrix, np.random.default_rng(seed)) for seed in range(5)} == {0}
