"""Serve's policies: replicas from requests in flight, and the whole application by the share that is wanted."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.signals import FINISHED, IN_FLIGHT, QUEUED, SERVICE
from serve_app.config import load
from serve_app.config.pools import PoolConfig
from serve_app.deployments import scaling
from serve_app.deployments.scaling import InFlightPolicy, SharePolicy, required_replicas, share_limits


@pytest.mark.parametrize(
    ("in_flight", "queued", "target", "wanted"),
    [(0, 0, 8, 0), (1, 0, 8, 1), (8, 0, 8, 1), (9, 0, 8, 2), (0, 1, 8, 1), (80, 16, 8, 12)],
)
def test_wanted(in_flight: float, queued: float, target: float, wanted: int) -> None:
    assert required_replicas(in_flight, queued, target) == wanted


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0.5, 100))
def test_wanted_is_monotone_and_enough(load: float, more: float, target: float) -> None:
    wanted = required_replicas(load, 0, target)
    assert wanted <= required_replicas(load + more, 0, target)
    assert wanted * target >= load - 1e-6


def context(reported: dict[str, float], running: int, target_num: int = 3) -> SimpleNamespace:
    return SimpleNamespace(
        aggregated_metrics={IN_FLIGHT: reported},
        running_replicas=list(range(running)),
        target_num_replicas=target_num,
        total_queued_requests=0.0,
    )


def test_policy_sums_what_replicas_report() -> None:
    assert InFlightPolicy(8)(context({"a": 20.0, "b": 12.0}, 2)) == (4, {})


def test_policy_holds_until_every_replica_has_reported() -> None:
    assert InFlightPolicy(8)(context({"a": 100.0}, 2)) == (3, {})


class Gauges:
    """Instead of Ray's, which want a cluster: what was set last."""

    def __init__(self) -> None:
        self.target, self.held = Kept(), Kept()


class Kept(dict[str, float]):
    def set(self, value: float, tags: dict[str, str]) -> None:
        self[tags["pool"]] = value


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> SharePolicy:
    monkeypatch.setattr(scaling, "_Gauges", Gauges)
    return SharePolicy()


class Application:
    """Contexts as Serve makes them: one Gateway, and pools `small` and `large` with limits of their own."""

    def __init__(self, **limits: dict[str, Any]) -> None:
        self.now = 1000.0
        self.targets = {"small": 1, "large": 1}
        self.limits = {name: pool(**limits.get(name, {})) for name in self.targets}

    def contexts(self, reported_s: float = 0.0, **wanted: float) -> dict[str, SimpleNamespace]:
        at_s = self.now - reported_s
        gateway = {f"requested_per_s:{name}": {"g": series(at_s, rate)} for name, rate in wanted.items()}
        made = {"Gateway": self._context("Gateway", {}, ["g"], gateway, 1)}
        for name, target in self.targets.items():
            names = [f"{name}{i}" for i in range(target)]
            figures = {SERVICE: 2.0, FINISHED: 50.0, QUEUED: 0.0}
            told = {f: {n: series(at_s, value) for n in names} for f, value in figures.items()}
            kwargs = {"target_ongoing_requests": 4.0, "pool": name, "share": self.limits[name]}
            made[name] = self._context(name, kwargs, names, told, target)
        return made

    def _context(
        self, name: str, kwargs: dict[str, Any], running: list[str], told: dict[str, Any], target: int
    ) -> SimpleNamespace:
        config = SimpleNamespace(policy=SimpleNamespace(policy_kwargs=kwargs))
        return SimpleNamespace(
            deployment_name=name, config=config, running_replicas=running, current_num_replicas=len(running),
            target_num_replicas=target, raw_metrics=told, aggregated_metrics={}, total_queued_requests=0.0,
            current_time=self.now,
        )  # fmt: skip

    def run(self, policy: SharePolicy, seconds: int, reported_s: float = 0.0, **wanted: float) -> dict[str, int]:
        for _ in range(seconds):
            self.now += 1
            decided, state = policy(self.contexts(reported_s, **wanted))
            assert state == {} and "Gateway" not in decided
            self.targets.update(decided)
        return self.targets


def series(at_s: float, value: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(timestamp=at_s - 1, value=0.0), SimpleNamespace(timestamp=at_s, value=value)]


def pool(**replicas: Any) -> dict[str, float] | None:
    tree = load("lab").pools["small"].model_dump()
    bounds = {"min": 1, "max": 9, "concurrency": 4, "hold_s": 5, "idle_s": 10, "warm_up_s": 0, **replicas}
    return share_limits(PoolConfig.model_validate({**tree, "replicas": bounds}))


def test_pools_follow_the_share_up_at_once_and_down_after_a_while(policy: SharePolicy) -> None:
    app = Application()
    assert app.run(policy, 30, small=5.5, large=0.5) == {"small": 4, "large": 1}  # 11 + sqrt(11) in 4 places each
    assert app.run(policy, 30, small=0.5, large=5.5) == {"small": 1, "large": 4}
    assert policy._gauges.target == {"small": 1, "large": 4} and policy._gauges.held == {"small": 0, "large": 0}


def test_an_idle_pool_sleeps_and_a_wanted_call_wakes_it(policy: SharePolicy) -> None:
    app = Application(large={"min": 0})
    app.run(policy, 10, small=1.0, large=1.0)
    assert app.run(policy, 60, small=1.0, large=0.0)["large"] == 0
    assert app.run(policy, 1, small=1.0, large=0.2)["large"] == 1


@pytest.mark.parametrize("reported_s", [60.0, None])
def test_without_fresh_reports_replicas_are_held_and_it_is_said_once(
    policy: SharePolicy, reported_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = Application()
    app.run(policy, 30, small=6.0, large=6.0)
    held = dict(app.targets)
    with caplog.at_level(logging.INFO, "ray.serve"):
        silent = {} if reported_s is None else {"small": 0.0, "large": 0.0}
        assert app.run(policy, 100, reported_s or 0.0, **silent) == held
        assert policy._gauges.held == {"small": 1, "large": 1}
        assert sum("are held" in r.message for r in caplog.records) == 2
        app.run(policy, 5, small=6.0, large=6.0)
    assert sum("report again" in r.message for r in caplog.records) == 2


def test_a_new_controller_holds_until_it_knows(policy: SharePolicy) -> None:
    app = Application()
    app.targets = {"small": 5, "large": 3}
    assert app.run(policy, 10) == {"small": 5, "large": 3}


def test_a_pool_that_asks_for_it_follows_its_requests_in_flight(policy: SharePolicy) -> None:
    app = Application()
    app.limits["large"] = None
    contexts = app.contexts(small=1.0, large=50.0)
    contexts["large"].aggregated_metrics = {IN_FLIGHT: {"large0": 9.0}}
    decided, _ = policy(contexts)
    assert decided["large"] == 3


def test_only_pools_between_bounds_that_are_ours_have_a_share() -> None:
    assert share_limits(load("lab").pools["small"]) is None
    assert pool(policy="in_flight") is None
    remote = load("remote").pools["small"].model_dump() | {"replicas": {"min": 1, "max": 3}}
    assert share_limits(PoolConfig.model_validate(remote)) is None
