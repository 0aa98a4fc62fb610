import json
from dataclasses import replace

import pytest

from serve_app.api.reply import (
    decision_headers,
    decision_json,
    error_event,
    error_headers,
    jethro_object,
    spent_headers,
    spliced,
    timing_headers,
    with_usage,
)
from serve_app.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    JethroError,
    Overloaded,
    PoolUnavailable,
    UpstreamError,
)
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Step, Usage

DECISION = Decision("d", "route", "small", "org/größe", "easy", 0.123456789, 0.5, "complexity", "v1", 0.25)
PLAIN = Decision("d", "direct", "small", "m", "asked for m")


def request_record(*steps: Step) -> RequestRecord:
    return RequestRecord("r", "chat", 0.0, steps=steps, parse_ms=0.1, decide_ms=0.25, first_byte_ms=7.0)


def test_headers_are_visible_ascii_and_numbers_are_short():
    headers = dict(decision_headers(DECISION))
    assert headers[b"x-jethro-score"] == b"0.123457"
    assert headers[b"x-jethro-model"] == b"org/gr??e"


def test_without_a_score_there_is_no_header_for_it():
    assert {b"x-jethro-score", b"x-jethro-threshold"}.isdisjoint(dict(decision_headers(PLAIN)))


def test_the_time_of_every_layer():
    headers = dict(timing_headers(request_record(), 8.4))
    assert headers[b"server-timing"] == b"parse;dur=0.100, decide;dur=0.250, pool;dur=7.000, total;dur=8.400"
    assert headers[b"openai-processing-ms"] == b"8"


def test_the_object_counts_all_steps_and_lists_them_if_there_are_several():
    one = json.loads(jethro_object(DECISION, request_record(Step("small", "chosen", Usage(1, 2), 0.5))))
    assert (one["cost_usd"], "steps" in one) == (0.5, False)
    steps = (Step("small", "not sure", Usage(3, 4), 0.25, wasted=True), Step("large", "taken", Usage(1, 2), 0.5))
    both = json.loads(jethro_object(DECISION, request_record(*steps)))
    assert [s["wasted"] for s in both["steps"]] == [True, False] and both["cost_usd"] == 0.75
    assert both["wasted"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost_usd": 0.25}


def test_what_was_wasted_has_headers_of_its_own():
    steps = (Step("small", "not sure", Usage(3, 4), 0.25, wasted=True), Step("large", "taken", Usage(1, 2), 0.5))
    assert dict(spent_headers(request_record(*steps))) == {
        b"x-jethro-cost-usd": b"0.75",
        b"x-jethro-wasted-tokens": b"7",
        b"x-jethro-wasted-usd": b"0.25",
    }
    assert dict(spent_headers(request_record(steps[1]))) == {b"x-jethro-cost-usd": b"0.5"}


def test_the_usage_of_all_calls_takes_the_place_of_one():
    body = b'{"a":1,"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    assert with_usage(body, None) is body
    assert json.loads(with_usage(body, Usage(4, 6)))["usage"]["total_tokens"] == 10


@pytest.mark.parametrize("body", [b'{"a":1}', b'{"a":{"b":"}"}}', b'{ "a": 1 }\n'])
def test_splicing_gives_one_object_with_one_key_more(body):
    assert json.loads(spliced(body, b'{"x":1}')) == {**json.loads(body), "jethro": {"x": 1}}


def test_the_whole_decision_is_json():
    full = Decision("d", "route", "small", "m", "r", 0.1, 0.5, "c", "v", 0.2, {"small": {"quality": 1.0}}, {"len": 2.0})
    assert json.loads(json.dumps(decision_json(full)))["expected"] == {"small": {"quality": 1.0}}


@pytest.mark.parametrize(("value", "text"), [("plain 1", b"plain 1"), ("a\r\nb: c", b"a??b: c"), ("größe", b"gr??e")])
def test_nothing_but_visible_ascii_gets_into_a_header(value, text):
    assert dict(decision_headers(replace(DECISION, model=value)))[b"x-jethro-model"] == text


AGAIN, IN_VAIN = (b"x-should-retry", b"true"), (b"x-should-retry", b"false")


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Overloaded("x"), [AGAIN, (b"retry-after", b"7")]),
        (PoolUnavailable("x", retry_after_s=0.1), [AGAIN, (b"retry-after", b"1")]),
        (PoolUnavailable("x", retry_after_s=2.1), [AGAIN, (b"retry-after", b"3")]),
        (UpstreamError("x"), [AGAIN]),
        (AuthenticationFailed("x"), [IN_VAIN, (b"www-authenticate", b"Bearer")]),
        (BodyTooLarge("x"), [IN_VAIN, (b"connection", b"close")]),
        (Conflict("x"), [IN_VAIN]),
        (DeadlineExceeded("x"), [IN_VAIN]),
        (JethroError("x"), [IN_VAIN]),
    ],
)
def test_headers_of_errors(error, headers):
    assert error_headers(error, 7) == headers


def test_an_error_event_is_one_event():
    assert error_event(JethroError("a\n\nb")).count(b"\n\n") == 1
