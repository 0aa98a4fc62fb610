import pytest

from serve_app.api.query import chat_request
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError
from serve_app.types import Message

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def messages(*turns):
    return chat_request({"model": "m", "messages": list(turns)}, LimitsConfig(messages=8), None).query.messages


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"role": "system", "content": "s"}, Message("system", "s")),
        ({"role": "developer", "content": "d"}, Message("developer", "d")),
        ({"role": "user", "content": "u", "name": "ann"}, Message("user", "u", {"name": "ann"})),
        ({"role": "user", "content": ""}, Message("user", "")),
        ({"role": "assistant", "content": "a"}, Message("assistant", "a")),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            Message("assistant", "", {"tool_calls": [CALL]}),
        ),
        ({"role": "assistant", "tool_calls": [CALL]}, Message("assistant", "", {"tool_calls": [CALL]})),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", "no")),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            Message("assistant", "", {"function_call": {"name": "f", "arguments": "{}"}}),
        ),
        ({"role": "tool", "content": "42", "tool_call_id": "c1"}, Message("tool", "42", {"tool_call_id": "c1"})),
        ({"role": "function", "content": "42", "name": "f"}, Message("function", "42", {"name": "f"})),
    ],
)
def test_every_role(turn, expected):
    assert messages(turn) == (expected,)


def test_text_parts_become_lines():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for role in ("system", "developer", "user", "assistant"):
        assert messages({"role": role, "content": parts})[0].content == "one\ntwo"
    assert messages({"role": "tool", "content": parts, "tool_call_id": "c"})[0].content == "one\ntwo"


def test_turns_keep_their_order():
    turns = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    assert [m.content for m in messages(*turns)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "narrator", "content": "x"}, "messages.0.role"),
        ({"role": "User", "content": "x"}, "messages.0.role"),
        ({"role": None, "content": "x"}, "messages.0.role"),
        ({"role": 5, "content": "x"}, "messages.0.role"),
        ({"role": ["user"], "content": "x"}, "messages.0.role"),
        ({"content": "x"}, "messages.0.role"),
        ({}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "poem", "text": "x"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages.0.tool_calls"),
        ({"role": "user", "content": "x", "name": ""}, "messages.0.name"),
        ({"role": "assistant"}, "messages.0"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "x"}]}, "messages.0.tool_calls.0.type"),
        ({"role": "assistant", "tool_calls": [{**CALL, "id": None}]}, "messages.0.tool_calls.0.id"),
        ({"role": "tool", "content": "x"}, "messages.0.tool_call_id"),
        ({"role": "function", "content": "x"}, "messages.0.name"),
        ("x", "messages.0"),
        (None, "messages.0"),
        ([], "messages.0"),
    ],
)
def test_a_wrong_turn_is_refused_by_its_path(turn, param):
    with pytest.raises(RequestError) as caught:
        messages(turn)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize("kind", ["input_image", "input_audio", "file", "video_url"])
def test_media_parts_are_refused_as_unsupported(kind):
    with pytest.raises(RequestError, match="not supported here") as caught:
        messages({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {}}]})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "messages.0.content.1.type")


@pytest.mark.parametrize("turns", [None, "x", {}, 5, []])
def test_messages_must_be_a_list_that_is_not_empty(turns):
    with pytest.raises(RequestError) as caught:
        chat_request({"model": "m", "messages": turns}, LimitsConfig(), None)
    assert caught.value.param == "messages"


def test_too_many_messages():
    with pytest.raises(RequestError, match="at most 8"):
        messages(*[{"role": "user", "content": "x"}] * 9)
