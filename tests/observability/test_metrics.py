import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serve_app.observability.metrics import Recorder
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Step, Usage


def request_record(**changes) -> RequestRecord:
    decision = Decision("d", "route", "small", "lab-small", "easy", 0.2, 0.5, "complexity", decision_ms=0.3, cause="score_below")
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
