from serve_app.types import Step, Usage
from tests.observability.test_metrics import request_record as made


def test_usage_and_cost_count_all_steps():
    one = made(steps=(Step("small", "failed", Usage(1, 2), 0.25, wasted=True), Step("large", "x", Usage(3, 4), 0.5)))
    assert (one.usage, one.cost_usd) == (Usage(4, 6), 0.75)


def test_what_is_in_no_answer_is_told_apart():
    lost = Step("small", "not sure", Usage(1, 2), 0.25, wasted=True)
    one = made(steps=(lost, Step("large", "x", Usage(3, 4), 0.5)))
    assert (one.wasted, one.wasted_usd, one.usage_to_show) == (Usage(1, 2), 0.25, Usage(4, 6))


def test_a_call_that_gave_nothing_leaves_the_answers_usage_as_it_is():
    one = made(steps=(Step("small", "failed", wasted=True, failed=True), Step("large", "x", Usage(3, 4), 0.5)))
    assert one.usage_to_show is None and one.wasted == Usage()
