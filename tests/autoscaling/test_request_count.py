"""What the rule makes of the reports of replicas; its decisions are held to Ray's in test_serve_default.py."""

from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.rules import Delays, ReportTimes, RequestCountRule
from serve_app.autoscaling.simulator import PoolView

LIMITS = {"p": PoolLimits(min_replicas=1, max_replicas=20)}
QUICK = Delays(up_s=0.0, down_s=0.0)


def view(in_flight: int, queued: int = 0, running: int = 1, target: int = 1) -> dict[str, PoolView]:
    return {"p": PoolView(0.0, 0.0, None, in_flight, queued, running, target)}


def test_what_waits_counts_as_well() -> None:
    rule = RequestCountRule(LIMITS, {"p": 2.0}, QUICK, ReportTimes(push_s=1.0, look_back_s=1.0))
    assert rule.targets(view(4, 6), 0.0) == {"p": 5}


def test_what_is_not_pushed_is_not_known() -> None:
    rule = RequestCountRule(LIMITS, {"p": 1.0}, QUICK, ReportTimes(push_s=10.0, look_back_s=30.0))
    found = [rule.targets(view(0 if second < 5 else 10, target=2), float(second))["p"] for second in range(21)]
    assert found[:10] == [1] * 10  # the first push was of nothing, and stands until the next
    assert found[10] in (5, 6)  # five seconds of none, five of ten
    assert found[11:20] == sorted(found[11:20]) and found[19] < 10  # the newest figure is taken to hold


def test_the_look_back_is_a_mean() -> None:
    rule = RequestCountRule(LIMITS, {"p": 1.0}, QUICK, ReportTimes(push_s=1.0, look_back_s=4.0))
    for second in range(5):
        rule.targets(view(0), float(second))
    found = [rule.targets(view(8), float(second))["p"] for second in range(5, 11)]
    assert found == sorted(found) and found[0] < found[-1] == 8


def test_bounds_hold() -> None:
    rule = RequestCountRule(LIMITS, {"p": 1.0}, QUICK, ReportTimes(push_s=1.0, look_back_s=1.0))
    assert rule.targets(view(500), 0.0) == {"p": 20}
    assert rule.targets(view(0, target=5), 100.0) == {"p": 1}


def test_up_after_its_delay_and_down_after_the_longer_one() -> None:
    rule = RequestCountRule(LIMITS, {"p": 1.0}, Delays(30.0, 600.0), ReportTimes(push_s=1.0, look_back_s=1.0))
    targets, target = [], 1
    for second in range(700):
        target = rule.targets(view(4 if second < 60 else 1, running=target, target=target), float(second))["p"]
        targets.append(target)
    assert targets[29] == 1 and targets[31] == 4
    assert targets[650] == 4 and targets[-1] == 1
