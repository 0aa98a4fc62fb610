"""Replicas from requests in flight, and the shell that Serve calls."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.deployments.scaling import InFlightPolicy, wanted_replicas


@pytest.mark.parametrize(
    ("in_flight", "queued", "target", "wanted"),
    [(0, 0, 8, 0), (1, 0, 8, 1), (8, 0, 8, 1), (9, 0, 8, 2), (0, 1, 8, 1), (80, 16, 8, 12)],
)
def test_wanted(in_flight: float, queued: float, target: float, wanted: int) -> None:
    assert wanted_replicas(in_flight, queued, target) == wanted


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0.5, 100))
def test_wanted_is_monotone_and_enough(load: float, more: float, target: float) -> None:
    wanted = wanted_replicas(load, 0, target)
    assert wanted <= wanted_replicas(load + more, 0, target)
    assert wanted * target >= load - 1e-6


def context(reported: dict[str, float], running: int, target_num: int = 3) -> SimpleNamespace:
    return SimpleNamespace(
        aggregated_metrics={"in_flight": reported},
        running_replicas=list(range(running)),
        target_num_replicas=target_num,
        total_queued_requests=0.0,
    )


def test_policy_sums_what_replicas_report() -> None:
    assert InFlightPolicy(8)(context({"a": 20.0, "b": 12.0}, 2)) == (4, {})


def test_policy_holds_until_every_replica_has_reported() -> None:
    assert InFlightPolicy(8)(context({"a": 100.0}, 2)) == (3, {})
