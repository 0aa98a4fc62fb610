"""Odd JSON of upstreams in OpenAI's shape."""

from collections import Counter

import pytest

from serve_app.wire.normalize import chunk_of_answer, error_in, lenient_loads, normalize_answer, tokens


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":NaN,"b":Infinity,"c":-Infinity,"d":1e999}', {"a": None, "b": None, "c": -9999.0, "d": None}),
        (b'["a\\ud83d", "\\ud83d\\ude00"]', ["a�", "\U0001f600"]),
        (b'["\xf0\x9f"]', ["�"]),
        (b'\xef\xbb\xbf{"\\udc00": "a\tb"}', {"�": "a\tb"}),
        (b"[NaN, 1%b]" % (b"0" * 400), [None, None]),
    ],
)
def test_what_is_nearly_json_is_repaired_and_counted(body, value):
    repairs = Counter()
    assert lenient_loads(body, repairs) == (value, True)
    assert repairs == {"json": 1}


def test_json_is_as_it_is():
    repairs = Counter()
    assert lenient_loads(b'{"a":1}', repairs) == ({"a": 1}, False)
    assert not repairs


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"[" * 5000])
def test_what_is_no_json_is_none(body):
    with pytest.raises(ValueError, match=r".+"):
        lenient_loads(body, Counter())


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (0, 0),
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (" 7 ", 7),
        *((v, None) for v in (True, -1, 2.5, "x", "-1", [1], 1e30, 2**63)),
    ],
)
def test_counts_of_tokens(value, count):
    assert tokens(value) == count


@pytest.mark.parametrize("where", [{"x_groq": {}}, {"choices": [{}]}])
def test_usage_is_found_inside(where):
    counts = {"prompt_tokens": 1, "completion_tokens": 2}
    inner = where["choices"][0] if "choices" in where else where["x_groq"]
    inner["usage"] = counts
    assert normalize_answer(where, Counter()) and where["usage"] is counts


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "boom", "code": [1]}},
        {"error": "boom"},
        {"error": ["boom"]},
        {"error": [{"message": "boom"}]},
        {"error": {"detail": "boom"}},
        {"error": {"error": {"message": "boom"}}},
        {"error": True, "message": "boom"},
        {"error": "code", "message": "boom"},
        {"object": "error", "message": "boom"},
        {"type": "error", "error": {"message": "boom"}},
        {"message": "boom", "code": 1},
        {"msg": "boom"},
        {"detail": "boom"},
        {"detail": [{"loc": ["n"], "msg": "boom"}]},
        {"detail": {"message": "boom"}},
        {"errors": [{"message": "boom"}]},
        {"choices": [{"error": {"message": "boom"}}]},
        {"choices": [], "error": {"message": "boom"}},
        {"error": 429, "message": "boom"},
        {"error": {"message": {"text": "boom"}}},
        {"detail": {"error": "boom"}},
        [{"error": {"message": "boom"}}],
        "boom",
    ],
)
def test_errors_of_every_shape(body):
    found = error_in(body)
    assert found is not None and found["message"] == "boom"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"delta": {}}], "error": None},
        {"choices": [{"delta": {}}], "error": {}},
        *({"choices": [], "usage": {"prompt_tokens": 1}, "error": empty} for empty in ("", {}, [], 0, False)),
        {"choices": [], "message": "x", "detail": "y"},
        {"message": {"role": "assistant"}},
        {},
        [],
        [[["x"]]],
        7,
        None,
    ],
)
def test_what_is_no_error(body):
    assert error_in(body) is None


@pytest.mark.parametrize("body", [{"error": 429}, {"errors": [{"message": "m", "code": 429}]}])
def test_the_code_of_an_error(body):
    found = error_in(body)
    assert found is not None and found["code"] == 429


def test_an_error_without_a_message_is_one():
    assert error_in({"error": {}}) == {"message": ""}


def test_a_whole_answer_as_one_event():
    calls = [{"id": "a", "function": {}}]
    answer = {"object": "chat.completion", "choices": [{"index": 0, "message": {"tool_calls": calls}}], "usage": {}}
    event = chunk_of_answer(answer)
    assert event["object"] == "chat.completion.chunk"
    assert event["choices"] == [{"index": 0, "delta": {"tool_calls": [{"index": 0, **calls[0]}]}}]
    text = {"object": "text_completion", "choices": [{"index": 0, "text": "x"}]}
    assert chunk_of_answer(text) == text
