"""An upstream's failures in our error family."""

import datetime
from collections import Counter
from email.utils import format_datetime

import orjson
import pytest

from serve_app import errors
from serve_app.pools.upstream_errors import error_of_answer, error_of_event, read_whole, redacted, retry_after


def body(message="bad", **more):
    return orjson.dumps({"error": {"message": message, "type": "x", "param": None, "code": None, **more}})


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, errors.RequestError),
        (400, "context_length_exceeded", errors.ContextLengthExceeded),
        (400, "unsupported_parameter", errors.UnsupportedParameter),
        (404, "model_not_found", errors.ModelNotFound),
        (404, None, errors.NotFound),
        (405, None, errors.MethodNotAllowed),
        (413, None, errors.BodyTooLarge),
        (422, None, errors.RequestError),
        (429, "rate_limit_exceeded", errors.Overloaded),
        (500, None, errors.UpstreamError),
        (502, "upstream_error", errors.UpstreamError),
        (503, None, errors.UpstreamError),
        (504, "deadline_exceeded", errors.DeadlineExceeded),
        (409, "conflict", errors.UpstreamError),
        (500, "context_length_exceeded", errors.UpstreamError),
    ],
)
def test_status_and_code_choose_the_class(status, code, expected):
    error = error_of_answer(status, {}, body(code=code, param="messages"))
    assert type(error) is expected
    assert "bad" in error.message
    if status < 500 and status != 409:
        assert error.param == "messages"
        assert error.code == (code or expected.default_code)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_operators_matter_and_is_not_quoted(status):
    error = error_of_answer(status, {}, body("Incorrect API key provided: secret-123"))
    assert (type(error), error.status) == (errors.UpstreamError, 502)
    assert "secret-123" not in error.message and "key" in error.message


@pytest.mark.parametrize("raw", [b"", b"<html>nope</html>", b"[1]", b"null", b'{"detail":1}'])
@pytest.mark.parametrize("status", [400, 404, 500])
def test_without_an_error_object_it_is_no_openai_server(status, raw):
    error = error_of_answer(status, {}, raw)
    assert type(error) is errors.UpstreamError
    assert str(status) in error.message


def test_a_wrong_url_of_a_fastapi_server_is_the_operators_matter():
    assert type(error_of_answer(404, {}, b'{"detail":"Not Found"}')) is errors.UpstreamError
    error = error_of_answer(404, {}, b'{"detail":"no model of that name"}')
    assert (type(error), error.message) == (errors.NotFound, "no model of that name")


@pytest.mark.parametrize("raw", [b"", b"<html>nope</html>", b'{"detail":1}'])
@pytest.mark.parametrize(("status", "expected"), [(413, errors.BodyTooLarge), (422, errors.RequestError)])
def test_a_request_that_no_member_would_take_is_the_callers_matter(status, expected, raw):
    error = error_of_answer(status, {}, raw)
    assert type(error) is expected and not error.retryable
    assert str(status) in error.message


@pytest.mark.parametrize("status", [400, 422])
def test_fastapis_words_are_told(status):
    fields = b'{"detail":[{"loc":["body","n"],"msg":"too many","input":7},{"msg":"too long"}]}'
    assert error_of_answer(status, {}, fields).message == "too many; too long"
    error = error_of_answer(status, {}, b'{"detail":"no such tool"}')
    assert (type(error), error.message) == (errors.RequestError, "no such tool")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<html>", "not JSON"),
        (b"[1]", "not an object"),
        (b"{}", "without choices"),
        (b'{"choices":[]}', "without choices"),
        (b'{"choices":[null]}', "unknown shape"),
        (b'{"choices":[{"message":"x"}]}', "message that is not an object"),
        (b'{"choices":[{"message":{}}],"x":' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b'{"error":{"message":"no credits","code":402}}', "no credits"),
        (b'{"error":"boom","choices":[]}', "boom"),
    ],
)
def test_a_whole_answer_that_is_none(raw, words):
    with pytest.raises(errors.UpstreamError, match=words):
        read_whole(raw, Counter())


CHOICE = b'{"index":0,"message":{"role":"assistant","content":"x"}}'


@pytest.mark.parametrize(
    "raw", [b'\n{"choices":[%b],"usage":null,"error":null}', b'{"choices":[%b],"usage":{}}', b'{"choices":[%b,%b]}']
)
def test_a_whole_answer_that_is_one(raw):
    raw = raw.replace(b"%b", CHOICE, 1).replace(b"%b", CHOICE.replace(b"0", b"1"))
    assert read_whole(raw, Counter()).body is raw


def test_a_message_that_a_filter_took_is_empty():
    raw = b'{"choices":[{"finish_reason":"content_filter"},{"index":"1","message":{"refusal":"no"}}]}'
    first, second = read_whole(raw, Counter()).parsed["choices"]
    assert first == {"index": 0, "finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}
    assert second == {"index": 1, "message": {"role": "assistant", "content": None, "refusal": "no"}}


def test_an_error_that_is_only_words():
    assert error_of_answer(400, {}, b'{"error":"model is loading"}').message == "model is loading"


def test_a_draining_replica_is_told_from_a_broken_one():
    error = error_of_answer(503, {"x-jethro-draining": "1", "retry-after": "2"}, body())
    assert (type(error), error.retry_after_s) == (errors.PoolUnavailable, 2.0)


def test_long_messages_are_cut():
    assert len(error_of_answer(400, {}, body("y" * 10_000)).message) <= 500


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("soon", None), ("", None), (None, None), ("nan", None), ("inf", 3600.0)]
    + [(f"Mon, 01 Jan {year} 00:00:00 {zone}", None) for year, zone in ((2024, "+" + "9" * 17), (10**6, "GMT"))],
)
def test_retry_after_in_seconds(value, seconds):
    assert retry_after(value) == seconds


def test_retry_after_as_a_date():
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    seconds = retry_after(format_datetime(at, usegmt=True))
    assert seconds is not None and 90 < seconds <= 100


def test_an_error_event_keeps_a_code_of_ours():
    assert type(error_of_event({"message": "late", "code": "deadline_exceeded"})) is errors.DeadlineExceeded
    assert type(error_of_event({"message": "x", "code": 500})) is errors.UpstreamError
    assert "boom" in error_of_event({"message": "boom"}).message


def test_a_quoted_secret_is_struck_out():
    error = redacted(errors.UpstreamError("no access with k-1 here"), "k-1")
    assert str(error) == error.message == "no access with [hidden] here"
