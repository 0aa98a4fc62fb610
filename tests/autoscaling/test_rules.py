"""The thin rules: ours over the policy, and the reactive one on queues."""

from serve_app.autoscaling.policy import PoolLimits, PoolSignals, plan
from serve_app.autoscaling.rules import QueueRule, ShareRule
from serve_app.autoscaling.simulator import PoolView

LIMITS = {"p": PoolLimits(min_replicas=1, max_replicas=10, concurrency=4)}


def view(at_s: float = 0.0, *, wanted: float = 0.0, in_flight: int = 0, queued: int = 0, target: int = 1) -> PoolView:
    return PoolView(at_s, wanted, 1.0, in_flight, queued, target, target)


def test_ours_is_the_policy_itself() -> None:
    rule, memory, target = ShareRule(LIMITS), {}, 1
    for second in range(60):
        rate = 2.0 if second < 20 else 12.0
        signals = {"p": PoolSignals(rate, 1.0, 0, target, float(second))}
        made = plan(signals, LIMITS, {"p": target}, memory, float(second))
        assert rule.targets({"p": view(float(second), wanted=rate, target=target)}, float(second)) == {
            "p": made.targets["p"].replicas
        }
        memory, target = dict(made.memory), made.targets["p"].replicas
    assert target > 1


def test_a_queue_is_answered_at_once() -> None:
    assert QueueRule(LIMITS).targets({"p": view(in_flight=4, queued=9)}, 0.0) == {"p": 4}
    assert QueueRule(LIMITS).targets({"p": view(in_flight=4, queued=900)}, 0.0) == {"p": 10}


def test_spare_replicas_go_one_after_the_other() -> None:
    rule, target, seen = QueueRule(LIMITS, hold_s=30.0), 4, []
    for second in range(130):
        target = rule.targets({"p": view(in_flight=4, target=target)}, float(second))["p"]
        seen.append(target)
    assert seen[29] == 4 and seen[30] == 3 and seen[60] == 2 and seen[-1] == 2  # four calls fill one
    assert seen == sorted(seen, reverse=True)


def test_a_queue_in_between_starts_the_wait_anew() -> None:
    rule, seen = QueueRule(LIMITS, hold_s=30.0), []
    for second in range(60):
        queued = 1 if second == 20 else 0
        seen.append(rule.targets({"p": view(in_flight=2, queued=queued, target=5)}, float(second))["p"])
    assert seen[:51] == [5] * 20 + [6] + [5] * 30 and seen[51] == 4
