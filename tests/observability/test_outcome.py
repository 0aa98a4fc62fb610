from serve_app.types import Step, Usage
from tests.observability.test_metrics import outcome


def test_usage_and_cost_count_all_steps():
    one = outcome(steps=(Step("small", "failed", Usage(1, 2), 0.25, wasted=True), Step("large", "x", Usage(3, 4), 0.5)))
    assert (one.usage, one.cost_usd) == (Usage(4, 6), 0.75)


def test_what_is_in_no_answer_is_told_apart():
    lost = Step("small", "not sure", Usage(1, 2), 0.25, wasted=True)
    one = outcome(steps=(lost, Step("large", "x", Usage(3, 4), 0.5)))
    assert (one.wasted, one.wasted_usd, one.usage_to_show) == (Usage(1, 2), 0.25, Usage(4, 6))


def test_a_call_that_gave_nothing_leaves_the_answers_usage_as_it_is():
    one = outcome(steps=(Step("small", "failed", wasted=True, failed=True), Step("large", "x", Usage(3, 4), 0.5)))
    assert one.usage_to_show is None and one.wasted == Usage()


def test_the_record_is_the_same_story():
    record = outcome(tenant="acme", error_code="x", prompt="hi").record()
    assert record is not None
    assert (record.decision.id, record.status, record.tenant, record.error_code) == ("d", "completed", "acme", "x")
    assert (record.latency_ms, record.ttft_ms, record.usage, record.prompt) == (10.0, 6.0, Usage(5, 3), "hi")


def test_without_a_decision_there_is_nothing_to_keep():
    assert outcome(decision=None).record() is None
