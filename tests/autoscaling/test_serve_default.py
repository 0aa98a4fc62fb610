"""Our rewriting of Serve's default decides as Ray's own code does."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray.serve.autoscaling_policy as rays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve_app.autoscaling.rules import Delays, ReportTimes, ServeDecision

SERIES = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 200)), st.floats(0.1, 400), st.integers(0, 5)),
    min_size=1,
    max_size=80,
)
"""Requests, seconds until the next decision, and replicas that are wanted and do not run yet."""


def context(config: AutoscalingConfig, requests: float, running: int, target: int, state: dict[str, Any]) -> Any:
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="p",
        app_name="a",
        current_num_replicas=running,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics={},
        raw_metrics={},
        capacity_adjusted_min_replicas=config.min_replicas,
        capacity_adjusted_max_replicas=config.max_replicas,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=config,
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SERIES,
    st.sampled_from([(0, 8), (1, 8), (2, 5), (0, 1)]),
    st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0]),
    st.sampled_from([(30.0, 600.0), (0.0, 60.0), (1.0, 1.0)]),
)
def test_targets_are_rays(
    monkeypatch: pytest.MonkeyPatch,
    series: list[tuple[float, float, int]],
    bounds: tuple[int, int],
    target_ongoing: float,
    delays: tuple[float, float],
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(rays, "time", SimpleNamespace(time=lambda: clock.now))
    config = AutoscalingConfig(
        min_replicas=bounds[0],
        max_replicas=bounds[1],
        target_ongoing_requests=target_ongoing,
        upscale_delay_s=delays[0],
        downscale_delay_s=delays[1],
    )
    policy = rays._apply_autoscaling_config(rays.default_autoscaling_policy)
    ours, state, target = ServeDecision(target_ongoing, Delays(*delays)), {}, bounds[0]
    for requests, passed_s, starting in series:
        running = max(0, target - starting)
        wanted, state = policy(context(config, requests, running, target, state))
        assert ours.replicas(requests, running, target, clock.now) == wanted
        target = max(bounds[0], min(bounds[1], wanted))
        clock.now += passed_s


def test_the_defaults_are_rays() -> None:
    config, ours, reports = AutoscalingConfig(), Delays(), ReportTimes()
    assert (ours.up_s, ours.down_s) == (config.upscale_delay_s, config.downscale_delay_s)
    assert (reports.push_s, reports.look_back_s) == (config.metrics_interval_s, config.look_back_period_s)
    from serve_app.autoscaling.comparison import RAY_TARGET

    assert config.target_ongoing_requests == RAY_TARGET
