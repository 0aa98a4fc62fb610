"""What clients send back of earlier answers: the message shapes of SDKs and upstreams."""

import copy

import pytest

from serve_app.api.dialects.fields import FieldRules
from serve_app.api.query import chat_request
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
PLAIN = {"role": "assistant", "content": "hi"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
CACHE = {"type": "ephemeral"}
DROP = FieldRules()
KEEP = FieldRules(echoes=True, cache_control=True)
NOTHING = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}


def read(*turns, rules=DROP, **body):
    messages = [{"role": "user", "content": "q"}, *turns]
    body = {"model": "m", "messages": messages, **body}
    before = copy.deepcopy(messages)
    query = chat_request(body, LimitsConfig(), None, rules).query
    assert messages == before, "a caller's objects stay as they were"
    return query


def said(turn, rules=DROP):
    return read(turn, rules=rules).messages[1]


SAME = [
    # openai-python: message.model_dump(), and Node's message object
    ({**PLAIN, **NOTHING}, PLAIN),
    ({**PLAIN, "refusal": None, "annotations": []}, PLAIN),
    ({**PLAIN, "refusal": None, "annotations": [{"type": "url_citation", "url_citation": {}}]}, PLAIN),
    ({**PLAIN, "audio": {"id": "a1"}}, PLAIN),
    ({**CALLING, **NOTHING, "tool_calls": [CALL]}, CALLING),
    ({**CALLING, "content": ""}, CALLING),
    ({**CALLING, "content": []}, CALLING),
    # its parsed completions
    ({**PLAIN, "parsed": {"x": 1}, "refusal": None, "tool_calls": None}, PLAIN),
    (
        {
            **CALLING,
            "parsed": None,
            "tool_calls": [{**CALL, "function": {**CALL["function"], "parsed_arguments": {"a": 1}}}],
        },
        CALLING,
    ),
    ({**CALLING, "tool_calls": [{**CALL, "parsed_arguments": {"a": 1}}]}, CALLING),
    # pieces of a stream that a client put together
    ({**CALLING, "tool_calls": [{**CALL, "index": 0}]}, CALLING),
    ({**CALLING, "tool_calls": [{**CALL, "index": 0, "type": None}]}, CALLING),
    ({**PLAIN, "tool_calls": []}, PLAIN),
    ({**PLAIN, "tool_calls": [], "name": ""}, PLAIN),
    # vLLM, DeepSeek, OpenRouter
    ({**PLAIN, "reasoning_content": "hm", "reasoning": None}, PLAIN),
    ({**PLAIN, "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, PLAIN),
    ({**PLAIN, "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}]}, PLAIN),
    # Ollama: arguments as the object itself
    (
        {**CALLING, "thinking": "hm", "tool_calls": [{**CALL, "function": {"name": "add", "arguments": {"a": 1}}}]},
        CALLING,
    ),
    # LiteLLM
    (
        {
            **PLAIN,
            "tool_calls": None,
            "function_call": None,
            "provider_specific_fields": {"refusal": None},
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "reasoning_content": "hm",
        },
        PLAIN,
    ),
    ({**CALLING, "tool_calls": [{**CALL, "provider_specific_fields": {"thought_signature": "s"}}]}, CALLING),
    (
        {
            **CALLING,
            "tool_calls": [{**CALL, "function": {**CALL["function"], "provider_specific_fields": {"x": 1}}}],
        },
        CALLING,
    ),
    # Gemini's compatible endpoint, and the Vercel AI SDK that repeats it
    ({**CALLING, "tool_calls": [{**CALL, "extra_content": {"google": {"thought_signature": "s"}}}]}, CALLING),
    # LangChain, pydantic-ai and agents, whose messages have ids and parts
    ({**PLAIN, "id": "msg_1", "status": "completed", "type": "message"}, PLAIN),
    ({"role": "assistant", "content": [{"type": "text", "text": "hi", "annotations": [], "index": 0}]}, PLAIN),
    ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hi"}]}, PLAIN),
    (
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "summary": [], "id": 1}, {"type": "text", "text": "hi"}],
        },
        PLAIN,
    ),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "hi"}]}, PLAIN),
    ({"role": "assistant", "content": [{"type": "text", "text": "hi", "cache_control": CACHE}]}, PLAIN),
    ({"role": "assistant", "content": None, "refusal": "hi"}, PLAIN),
    ({"role": "assistant", "content": "", "refusal": "hi"}, PLAIN),
]


@pytest.mark.parametrize(("turn", "same"), SAME)
def test_a_repeated_answer_is_what_it_said(turn, same):
    assert said(turn) == said(same)
    assert read(turn).echoes is False


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": None, **NOTHING},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "reasoning_content": "hm"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
def test_an_answer_without_words(turn):
    assert (said(turn).content, dict(said(turn).extra)) == ("", {})


def test_arguments_that_are_missing_are_an_empty_object():
    turn = {**CALLING, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": None}}]}
    assert said(turn).extra["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("turn", "same"),
    [
        ({"role": "user", "content": "u", "id": "1", "tool_calls": None, "tool_call_id": None}, "user"),
        ({"role": "user", "content": [{"type": "text", "text": "u", "cache_control": CACHE}]}, "user"),
        ({"role": "user", "content": "u", "cache_control": CACHE, "name": None}, "user"),
        ({"role": "system", "content": "u", "refusal": None, "audio": None}, "system"),
        ({"role": "developer", "content": "u", "function_call": None}, "developer"),
    ],
)
def test_other_turns_lose_what_they_do_not_have(turn, same):
    assert said(turn) == said({"role": same, "content": "u"})


def test_a_tools_turn_loses_the_tools_name():
    """OpenAI's API refuses it, and so do upstreams that are as strict."""
    turn = {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"}
    assert said({**turn, "id": "x", "tool_calls": None}).extra == {"tool_call_id": "c1"}


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "assistant", "contnet": "x"}, "messages.1.contnet"),
        ({"role": "assistant", "content": "x", "reasoning_contnet": "y"}, "messages.1.reasoning_contnet"),
        ({"role": "assistant", "content": "x", "audio": None, "txt": "y"}, "messages.1.txt"),
        ({"role": "user", "content": "x", "reasoning_content": "y"}, "messages.1.reasoning_content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages.1.tool_calls"),
        ({**CALLING, "tool_calls": [{**CALL, "indx": 0}]}, "messages.1.tool_calls.0.indx"),
        ({**CALLING, "tool_calls": [{**CALL, "type": "x"}]}, "messages.1.tool_calls.0.type"),
        ({**CALLING, "tool_calls": [{"index": 0, "id": "c", "type": "function"}]}, "messages.1.tool_calls.0.function"),
        ({"role": "assistant", "content": [{"type": "text", "id": "x"}]}, "messages.1.content.0.text"),
        ({"role": "assistant", "content": [{"type": "txt", "text": "x"}]}, "messages.1.content.0.type"),
        ({"role": "assistant"}, "messages.1"),
    ],
)
def test_what_is_wrong_is_still_refused(turn, param):
    with pytest.raises(RequestError) as caught:
        said(turn)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_what_an_upstream_gave_is_kept_for_it():
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    turn = {**CALLING, "reasoning_content": "hm", "annotations": [], "tool_calls": [{**CALL, "index": 0, **signed}]}
    query = read(turn, rules=KEEP)
    assert query.echoes
    assert query.messages[1].extra == {"reasoning_content": "hm", "tool_calls": [{**CALL, **signed}]}
    assert query.messages[0].extra == {}


def test_marks_of_what_to_cache_are_kept_where_an_upstream_reads_them():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    system = {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": CACHE}]}
    asked = {"tools": [{**tool, "cache_control": CACHE}]}
    query = read(system, rules=KEEP, **asked)
    assert query.messages[1].extra == {"cache_control": CACHE}
    assert query.tools == ({**tool, "cache_control": CACHE},)
    plain = read(system, **asked)
    assert (dict(plain.messages[1].extra), plain.tools, plain.echoes) == ({}, (tool,), False)


def test_five_turns_with_tools_as_an_sdk_repeats_them():
    turns = []
    for i in range(5):
        call = {**CALL, "id": f"c{i}", "index": 0}
        turns += [
            {**CALLING, **NOTHING, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "content": str(i), "tool_call_id": f"c{i}", "name": "add"},
        ]
    messages = read(*turns, {**PLAIN, **NOTHING}).messages
    assert [m.role for m in messages] == ["user", *["assistant", "tool"] * 5, "assistant"]
    assert messages[9].extra["tool_calls"][0] == {**CALL, "id": "c4"}
