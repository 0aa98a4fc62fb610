from collections import Counter

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serve_app.observability.metrics import Recorder, SilentRecorder
from serve_app.pools.base import PoolLoad
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Price, Step, Usage


def request_record(**changes) -> RequestRecord:
    decision = Decision(
        "d", "route", "small", "lab-small", "easy", 0.2, 0.5, "complexity", decision_ms=0.3, cause="score_below"
    )
    values = {
        "http_status": 200, "status": "completed", "decision": decision, "parse_ms": 0.1, "first_byte_ms": 5.0,
        "steps": (Step("small", "chosen", Usage(5, 3), 1e-6, 9.0),), "ttft_ms": 6.0, "latency_ms": 10.0,
    }  # fmt: skip
    return RequestRecord("r", "chat", 1000.0, "jethro", **{**values, **changes})


def samples(recorder: Recorder) -> dict[str, float]:
    families = text_string_to_metric_families(recorder.text().decode())
    return {
        "|".join([s.name, *(v for _, v in sorted(s.labels.items()))]): s.value
        for family in families
        for s in family.samples
        if not s.name.endswith(("_bucket", "_created"))
    }


def test_an_answer():
    recorder = Recorder()
    recorder.started()
    assert samples(recorder)["jethro_requests_in_flight"] == 1
    recorder.ended(request_record())
    seen = samples(recorder)
    assert seen["jethro_requests_in_flight"] == 0
    assert seen["jethro_requests_total|200|chat|small|completed|route"] == 1
    assert seen["jethro_decisions_total|small|score_below|complexity|route"] == 1
    assert seen["jethro_decision_seconds_sum|complexity"] == pytest.approx(0.0003)
    assert seen["jethro_ttft_seconds_sum|chat|small|route"] == pytest.approx(0.006)
    assert seen["jethro_e2e_seconds_sum|chat|small|route"] == pytest.approx(0.01)
    assert seen["jethro_tokens_total|in|small"] == 5
    assert seen["jethro_tokens_total|out|small"] == 3
    assert seen["jethro_cost_usd_total|small"] == 1e-6
    assert seen["jethro_layer_seconds_sum|parse"] == pytest.approx(0.0001)
    assert seen["jethro_layer_seconds_sum|decide"] == pytest.approx(0.0003)
    assert seen["jethro_layer_seconds_sum|pool"] == pytest.approx(0.005)
    assert "jethro_tpot_seconds_sum|small" not in seen


def test_a_stream_has_a_tpot():
    recorder = Recorder()
    recorder.ended(request_record(stream=True))
    assert samples(recorder)["jethro_tpot_seconds_sum|small"] == pytest.approx((10 - 6) / 1e3 / 2)


def test_a_stream_of_one_token_has_none():
    recorder = Recorder()
    recorder.ended(request_record(stream=True, steps=(Step("small", "chosen", Usage(5, 1)),)))
    assert "jethro_tpot_seconds_sum|small" not in samples(recorder)


def test_a_refused_request_has_no_pool():
    recorder = Recorder()
    recorder.started()
    recorder.ended(
        request_record(decision=None, steps=(), status="failed", http_status=400, parse_ms=None, ttft_ms=None)
    )
    seen = samples(recorder)
    assert seen["jethro_requests_total|400|chat||failed|"] == 1
    assert not any(name.startswith("jethro_e2e_seconds") for name in seen)
    assert seen["jethro_requests_in_flight"] == 0


def test_a_cancelled_request_does_not_count_as_a_latency():
    recorder = Recorder()
    recorder.ended(request_record(status="cancelled", http_status=499))
    assert not any(name.startswith("jethro_e2e_seconds") for name in samples(recorder))


def test_a_decision_alone_was_never_in_flight_and_is_no_traffic():
    recorder = Recorder()
    recorder.ended(request_record(status="route_only", steps=()))
    assert not any(name.startswith("jethro_decisions_total") for name in samples(recorder))
    assert samples(recorder)["jethro_requests_in_flight"] == 0


def test_a_fallback_and_what_it_wasted():
    recorder = Recorder()
    failed = Step("small", "failed", Usage(4, 2), wasted=True, failed=True)
    recorder.ended(request_record(steps=(failed, Step("large", "fallback", Usage(4, 6), 1e-5))))
    seen = samples(recorder)
    assert "jethro_escalations_total|small" not in seen
    assert seen["jethro_fallbacks_total|small"] == 1
    assert seen["jethro_wasted_tokens_total|small"] == 6
    assert seen["jethro_tokens_total|out|large"] == 6


def test_an_answer_that_was_replaced_is_an_escalation_and_no_fallback():
    recorder = Recorder()
    judged = Step("large", "not sure", Usage(4, 2), 2e-6, wasted=True)
    verdict = Step("large", "verdict", Usage(9, 1), 1e-6, wasted=True)
    recorder.ended(request_record(steps=(judged, verdict, Step("small", "taken", Usage(4, 6), 1e-5))))
    seen = samples(recorder)
    assert seen["jethro_escalations_total|large"] == 1
    assert "jethro_fallbacks_total|large" not in seen
    assert seen["jethro_wasted_tokens_total|large"] == 16
    assert seen["jethro_wasted_cost_usd_total|large"] == 3e-6


def test_feedback_is_counted():
    recorder = Recorder()
    recorder.feedback()
    assert samples(recorder)["jethro_feedback_total"] == 1


def test_the_stores_figures_are_read_at_each_scrape():
    class Figures:
        queued, dropped, failed, restarts, away = 1, 2, 3, 4, True

    recorder, figures = Recorder(), Figures()
    recorder.watch_store(figures)
    figures.queued = 7
    seen = samples(recorder)
    names = ("queued", "dropped_total", "failed_total", "restarts_total", "away")
    assert [seen[f"jethro_store_{name}"] for name in names] == [7, 2, 3, 4, 1]


def test_recorders_do_not_share_and_can_be_given_a_registry():
    registry = CollectorRegistry()
    one, two = Recorder(registry), Recorder()
    one.started()
    assert one.registry is registry
    assert samples(two)["jethro_requests_in_flight"] == 0


def test_every_metric_is_ours_by_name():
    recorder = Recorder()
    recorder.ended(request_record(stream=True))
    names = {f.name for f in text_string_to_metric_families(recorder.text().decode())}
    assert all(name.startswith("jethro_") for name in names)


class FakeFigures:
    name, version, threshold, swaps, refusals = "mine", "knn-1", 0.25, 3, 1
    share, expected_share = 0.4, None

    @property
    def drift(self) -> dict[str, dict[str, object]]:
        return {"scores": {"drift": True, "statistic": 0.4, "limit": 0.1, "queries": 300}}


def test_routers_are_read_when_prometheus_asks():
    recorder = Recorder()
    figures = [FakeFigures()]
    recorder.watch_routers(lambda: figures)
    assert {name: value for name, value in samples(recorder).items() if name.startswith("jethro_router")} == {
        "jethro_router|mine|knn-1": 1.0,
        "jethro_router_threshold|mine": 0.25,
        "jethro_router_share|mine": 0.4,
        "jethro_router_swaps_total|mine": 3.0,
        "jethro_router_refusals_total|mine": 1.0,
        "jethro_router_drift|mine|scores": 1.0,
        "jethro_router_drift_statistic|mine|scores": 0.4,
        "jethro_router_drift_limit|mine|scores": 0.1,
    }
    figures.clear()
    assert "knn-1" not in recorder.text().decode()


def test_gaps_within_a_stream():
    recorder = Recorder()
    recorder.ended(request_record(stream=True, pieces=4, pieces_ms=6.0, longest_gap_ms=5.0))
    seen = samples(recorder)
    assert seen["jethro_itl_seconds_sum|small"] == pytest.approx(0.002)
    assert seen["jethro_itl_longest_seconds_sum|small"] == pytest.approx(0.005)
    recorder.ended(request_record(stream=True, pieces=1))
    assert samples(recorder)["jethro_itl_seconds_count|small"] == 1


def test_scores_and_the_router_that_has_none():
    recorder = Recorder()
    recorder.ended(request_record())
    assert samples(recorder)["jethro_score_sum|complexity"] == 0.2
    assert samples(recorder)["jethro_unscored_total|complexity"] == 0
    unscored = Decision("d", "route", "large", "m", "r", router="complexity", cause="no_score")
    recorder.ended(request_record(decision=unscored))
    seen = samples(recorder)
    assert seen["jethro_score_count|complexity"] == 1 and seen["jethro_unscored_total|complexity"] == 1
    assert seen["jethro_decisions_total|large|no_score|complexity|route"] == 1


def test_confidence_and_tasks():
    recorder = Recorder()
    found = {"small": 0.3, "mid": 0.9}
    decided = Decision("d", "orchestrate", "mid", "m", "r", score=0.9, task="sort", confidences=found)
    recorder.ended(request_record(decision=decided))
    seen = samples(recorder)
    assert seen["jethro_confidence_sum|small|orchestrate"] == 0.3
    assert seen["jethro_confidence_sum|mid|orchestrate"] == 0.9
    assert seen["jethro_tasks_total|mid|sort"] == 1
    assert not any(name.startswith("jethro_score") for name in seen), "no router scored"


LARGE = Price(1.0, 4.0)


def test_what_is_saved_is_reckoned_at_the_large_pools_price():
    recorder = Recorder(large=LARGE)
    recorder.ended(request_record())
    seen = samples(recorder)
    assert seen["jethro_answered_cost_usd_total|route"] == 1e-6
    assert seen["jethro_always_large_cost_usd_total|route"] == pytest.approx((5 * 1.0 + 3 * 4.0) / 1e6)


def test_calls_that_only_checked_an_answer_would_not_have_been_made():
    recorder = Recorder(large=LARGE)
    rejected = Step("small", "not sure", Usage(5, 9), 1e-6, wasted=True)
    taken, verdict = Step("large", "taken", Usage(5, 2), 8e-6), Step("large", "verdict", Usage(90, 1), 2e-6)
    recorder.ended(request_record(steps=(rejected, taken, verdict)))
    seen = samples(recorder)
    assert seen["jethro_always_large_cost_usd_total|route"] == pytest.approx((5 + 2 * 4) / 1e6)
    assert seen["jethro_answered_cost_usd_total|route"] == pytest.approx(11e-6)


def test_an_answer_of_several_samples_counts_as_one():
    recorder = Recorder(large=LARGE)
    recorder.ended(request_record(steps=(Step("small", "candidate", Usage(5, 30)),), answered=Usage(5, 10)))
    assert samples(recorder)["jethro_always_large_cost_usd_total|route"] == pytest.approx((5 + 40) / 1e6)


@pytest.mark.parametrize("record", [request_record(status="failed"), request_record(status="cancelled")])
def test_requests_without_an_answer_save_nothing(record):
    recorder = Recorder(large=LARGE)
    recorder.ended(record)
    assert not any(name.startswith(("jethro_answered", "jethro_always")) for name in samples(recorder))


def test_without_a_large_pool_nothing_is_said_of_savings():
    recorder = Recorder()
    recorder.ended(request_record())
    assert not any(name.startswith(("jethro_answered", "jethro_always")) for name in samples(recorder))


@pytest.mark.parametrize(
    ("http_status", "code", "counted"),
    [
        (400, "invalid_json", "invalid_json"),
        (429, "overloaded", "overloaded"),
        (503, "pool_unavailable", "pool_unavailable"),
        (400, "what_an_upstream_made_up", "other"),
        (400, None, "other"),
        (500, "server_error", None),
        (200, "upstream_error", None),
    ],
)
def test_refusals_by_a_bounded_code(http_status, code, counted):
    recorder = Recorder()
    recorder.ended(request_record(decision=None, steps=(), status="failed", http_status=http_status, error_code=code))
    seen = {name: value for name, value in samples(recorder).items() if name.startswith("jethro_refusals")}
    assert seen == ({} if counted is None else {f"jethro_refusals_total|{counted}": 1})


def test_a_wrong_key_is_a_refusal():
    recorder = Recorder()
    recorder.unauthorized("invalid_api_key")
    seen = samples(recorder)
    assert seen["jethro_unauthorized_total"] == seen["jethro_refusals_total|invalid_api_key"] == 1


def test_feedback_is_compared_with_what_was_expected():
    recorder = Recorder()
    expected = {"small": {"quality": 0.9}}
    stored = {
        "strategy": "route",
        "router": "complexity",
        "pool": "small",
        "expected": expected,
        "policy_version": "v@1",
    }
    recorder.feedback(stored, 0.5)
    recorder.feedback(stored, None)  # a preference alone
    seen = samples(recorder)
    assert seen["jethro_feedback_total"] == 2
    assert seen["jethro_feedback_score_sum|small|route"] == 0.5
    assert seen["jethro_calibration_error|small|complexity|route"] == pytest.approx(0.4)
    assert seen["jethro_calibration_ratings|small|complexity|route"] == 1


class FakePool:
    def __init__(self, load: PoolLoad) -> None:
        self._load = load

    def load(self) -> PoolLoad:
        return self._load


def test_pools_are_read_at_each_scrape_and_seldom_events_are_counted_from_0():
    recorder = Recorder()
    asleep = PoolLoad(0, 0, answers=False)
    pools = {"small": FakePool(PoolLoad(2, 5, 3, 16)), "large": FakePool(asleep), "spare": FakePool(asleep)}
    recorder.watch_pools(pools, {"spare"})
    seen = samples(recorder)
    assert [seen[f"jethro_pool_{name}|small"] for name in ("up", "replicas", "in_flight", "waiting", "places")] == [
        *(1, 2, 5, 3, 16)
    ]
    assert [seen[f"jethro_pool_up|{name}"] for name in ("large", "spare")] == [0, 1]
    assert seen["jethro_fallbacks_total|large"] == seen["jethro_escalations_total|small"] == 0


def test_retries_and_repairs_by_kind():
    recorder = Recorder()
    retries = {"small": Counter(lost=2)}
    recorder.watch_calls({"small": Counter(json=1)}, retries)
    seen = samples(recorder)
    assert [seen[f"jethro_retries_total|small|{kind}"] for kind in ("lost", "full")] == [2, 0]
    assert [seen[f"jethro_upstream_repairs_total|small|{kind}"] for kind in ("json", "usage")] == [1, 0]
    retries["small"]["full"] += 1
    assert samples(recorder)["jethro_retries_total|small|full"] == 1


def test_what_is_switched_off_counts_nothing_and_still_answers() -> None:
    silent, counting = SilentRecorder(), Recorder()
    record = RequestRecord("r", "chat", 0.0, status="failed", http_status=429)
    for recorder in (silent, counting):
        recorder.started()
        recorder.ended(record)
        recorder.unauthorized()
        recorder.refused("input")
        recorder.found({"g.email": 1})
        recorder.feedback()
    assert b"jethro_requests_total{" in counting.text() and b"jethro_requests_total{" not in silent.text()
    assert b"jethro_feedback_total 0.0" in silent.text()
    methods = [name for name, value in vars(Recorder).items() if callable(value) and not name.startswith("_")]
    hot = {name for name in methods if not name.startswith("watch_")} - {"text", "calibration"}
    assert hot <= set(vars(SilentRecorder))
