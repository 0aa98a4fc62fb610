"""Arithmetic of the scaling benchmarks: targets, times to them, growth of memory, and what counts as passed."""

import copy
from typing import Any

import pytest

from benchmarks import overload, scaling_live
from benchmarks.scaling_live import Seen, reached_s, targets
from serve_app.config import Config


def seen(small: list[int], large: list[int]) -> Seen:
    return Seen(at_s=[float(t) for t in range(len(small))], replicas={"small": small, "large": large})


def test_targets_are_littles_law_with_square_root_headroom() -> None:
    # 12/s x 0.95 x 0.96 s = 10.9 calls, with sqrt 14.2; 0.6 calls, with sqrt 1.3; four places each
    assert targets(12.0, 0.05) == {"small": 4, "large": 1}
    assert targets(12.0, 0.6) == {"small": 2, "large": 3}


def test_the_time_to_a_target_counts_from_the_step() -> None:
    run = seen([4, 4, 4, 4, 3, 2, 2], [1, 1, 1, 2, 2, 3, 3])
    assert reached_s(run, "large", 3, 2.0) == 3.0
    assert reached_s(run, "small", 2, 2.0) == 3.0
    assert reached_s(run, "large", 4, 2.0) is None


def test_a_pool_that_never_grew_has_not_shrunk() -> None:
    assert reached_s(seen([2, 2, 2, 1], [1, 1, 1, 1]), "small", 2, 2.0) is None


@pytest.mark.parametrize("policy", sorted(scaling_live.DELAYS_S))
def test_the_configs_of_the_benchmarks_are_valid(policy: str, tmp_path: Any) -> None:
    tree = scaling_live.config(policy, 8123, tmp_path / "s.sqlite3", 0.5)
    bounds = Config.model_validate(tree).pools["large"].replicas
    assert (bounds.min, bounds.max, bounds.policy) == (0, 5, policy.removesuffix("_quick"))


def test_scaling_passes_only_if_sooner_and_without_a_5xx() -> None:
    woken = {"status": 200, "answered_by_large": True}
    share = {
        "seconds_to_target_small": 20.0,
        "seconds_to_target_large": 9.0,
        "failed_5xx": 0,
        "first_hard_query": woken,
    }
    found = {"share": share, "in_flight": {"seconds_to_target_small": None, "seconds_to_target_large": 40.0}}
    assert scaling_live.passed(found)
    for change in ({"failed_5xx": 1}, {"seconds_to_target_large": 41.0}, {"seconds_to_target_small": None}):
        assert not scaling_live.passed(found | {"share": share | change})


def test_growth_of_memory_leaves_the_start_out() -> None:
    assert overload.growth([50.0, 50.0, *[100.0] * 8]) == 0.0
    assert overload.growth([100.0 + i for i in range(100)]) > 0.4


def test_overload_passes_only_if_everything_holds() -> None:
    storm = {
        "statuses": {200: 5, 429: 9},
        "refused_without_retry_after": 0,
        "goodput_of_most": 0.95,
        "memory_growth": 0.0,
    }
    found: dict[str, Any] = {"storm": storm, "capacity_on": {"refused_by_large_replicas": 3}}
    found["capacity_off"] = {"refused_by_large_replicas": 10}
    assert overload.passed(found)
    wrong = [
        ("statuses", {504: 1}),
        ("refused_without_retry_after", 1),
        ("goodput_of_most", 0.8),
        ("memory_growth", 0.2),
    ]
    for key, value in wrong:
        broken = copy.deepcopy(found)
        broken["storm"][key] = value
        assert not overload.passed(broken)
    assert not overload.passed(found | {"capacity_on": {"refused_by_large_replicas": 8}})
