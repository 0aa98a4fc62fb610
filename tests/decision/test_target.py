"""Targets as operators write them, and the guarantees that they may carry."""

import numpy as np
import pytest

from serve_app.config.strategies import RoutingConfig
from serve_app.decision.target import Guarantee, Target, quality_range
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError, InsufficientData
from serve_app.routing.artefact import Registered
from serve_app.routing.kinds.random import RandomRouter
from serve_app.routing.serving.loading import default_threshold


def calibration(n: int = 2000) -> Calibration:
    rng = np.random.default_rng(0)
    scores = rng.random(n)
    weak = (rng.random(n) >= scores).astype(float)
    tokens = np.ones((n, 2))
    return Calibration(scores, weak, np.ones(n), tokens, tokens, np.full(n, 1e-6), np.full(n, 5e-6))


@pytest.mark.parametrize("text", ["strong-share=0.4", "cost=0.000002", "quality-drop=0.02"])
def test_a_target_is_read_and_written(text: str) -> None:
    assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "share=0.4", "cost", "cost=", "cost=-1", "cost=inf", "quality-drop=1.5", "cost=x"]
)
def test_what_is_no_target_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"strong-share=0\.4, cost=0\.0002"):
        Target.parse(text)


def test_each_target_is_reached() -> None:
    data = calibration()
    assert Target.parse("strong-share=0.4").threshold(data).share == pytest.approx(0.4, abs=1e-3)
    assert Target.parse("cost=3e-6").threshold(data).cost_usd == pytest.approx(3e-6, rel=1e-2)
    assert Target.parse("quality-drop=0.05").threshold(data).drop <= 0.05 + 1e-9


@pytest.mark.parametrize("method", ["expectation", "ltt"])
def test_a_guarantee_is_more_careful_than_the_calibration_data_alone(method: str) -> None:
    data = calibration()
    target = Target.parse("quality-drop=0.05")
    plain, sure = target.threshold(data), target.threshold(data, Guarantee(method))  # type: ignore[arg-type]
    assert 0 < sure.value <= plain.value and sure.share >= plain.share
    assert sure.share == (data.scores >= sure.value).mean() and sure.drop <= 0.05
    assert sure.target.startswith("drop <= 0.05 ")


def test_a_guarantee_is_for_a_drop_only() -> None:
    with pytest.raises(ConfigError, match="strong-share"):
        Target.parse("strong-share=0.4").threshold(calibration(), Guarantee("ltt"))


def test_too_little_data_or_no_bounds_promise_nothing() -> None:
    target = Target.parse("quality-drop=0.01")
    with pytest.raises(InsufficientData):
        target.threshold(calibration(30), Guarantee("ltt"))
    with pytest.raises(ConfigError, match="two bounds"):
        target.threshold(calibration(), Guarantee("ltt", quality_range=(None, 0.0)))


def test_a_threshold_of_any_value_tells_what_it_gives() -> None:
    data = calibration(50)
    for value in (0.0, 0.31, float(data.scores[7]), 1.0):
        found = Threshold.of_value(data, value, "t")
        assert found.value == value and found.share == (data.scores >= value).mean()
        assert found.quality == pytest.approx(np.where(data.scores >= value, 1.0, data.weak_quality).mean())


def test_the_range_is_that_of_the_metric() -> None:
    assert quality_range({}) == (0.0, 1.0)
    assert quality_range({"quality_range": [None, 0.0]}) == (None, 0.0)


def registered(how: str | None) -> Registered:
    data = {} if how is None else {"calibration": how}
    return Registered(RandomRouter(), 0.5, "v", ("a", "b"), calibration(), card={"data": data}, name="mine")


@pytest.mark.parametrize("how", ["held out", "fresh"])
def test_a_served_router_promises_on_scores_of_its_own(how: str) -> None:
    found = registered(how)
    plain = found.calibrated(max_quality_drop=0.05)
    sure = found.calibrated(max_quality_drop=0.05, guarantee="ltt", delta=0.05)
    assert 0 < sure < plain
    assert sure == Guarantee("ltt", 0.05).threshold(calibration(), 0.05)


@pytest.mark.parametrize("how", ["cross-fitted", None])
def test_a_served_router_promises_nothing_on_scores_of_others(how: str | None) -> None:
    with pytest.raises(ConfigError, match="jethro router calibrate"):
        registered(how).calibrated(max_quality_drop=0.05, guarantee="expectation")


def test_the_config_passes_the_guarantee_on() -> None:
    routing = RoutingConfig(max_quality_drop=0.05, guarantee="ltt", delta=0.2)
    assert default_threshold(routing, registered("fresh")) == Guarantee("ltt", 0.2).threshold(calibration(), 0.05)
    with pytest.raises(ValueError, match="set"):
        RoutingConfig(guarantee="ltt")
