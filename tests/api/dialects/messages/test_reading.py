import pytest

from serve_app.api.dialects.messages.reading import HINTS, counted_request, messages_request
from serve_app.api.query import chat_request
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.images import Image
from serve_app.types import Message, Query

LIMITS = LimitsConfig(messages=8, stop=2, stop_chars=5, max_tokens=100, tools=2)
HI = {"role": "user", "content": "hi"}
TOOL = {"name": "get", "description": "Gets.", "input_schema": {"type": "object", "properties": {"a": {}}}}
FUNCTION = {"type": "function", "function": {"name": "get", "description": "Gets.", "parameters": TOOL["input_schema"]}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": [1, "é"]}}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def query(*turns, **fields) -> Query:
    body = {"model": "m", "max_tokens": 10, "messages": list(turns) or [HI], **fields}
    return messages_request(body, LIMITS, "acme")[1]


def text(said, **more):
    return {"type": "text", "text": said, **more}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([HI], [Message("user", "hi")]),
        ([{"role": "user", "content": [text("a"), text(""), text("b", **CACHED)]}], [Message("user", "a\nb")]),
        ([{"role": "user", "content": ""}], [Message("user", "")]),
        ([{"role": "user", "content": []}], [Message("user", "")]),
        ([HI, {"role": "user", "content": "there"}], [Message("user", "hi\nthere")]),
        ([HI, {"role": "assistant", "content": "a"}], [Message("user", "hi"), Message("assistant", "a")]),
        (
            [HI, {"role": "system", "content": [text("now in French")]}],
            [Message("user", "hi"), Message("system", "now in French")],
        ),
        (
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "x"},
                        text("a", citations=None),
                        CALL,
                    ],
                },
                {"role": "assistant", "content": "b"},
            ],
            [
                Message(
                    "assistant",
                    "a\nb",
                    {
                        "tool_calls": [
                            {
                                "id": "toolu_1",
                                "type": "function",
                                "function": {"name": "get", "arguments": '{"a":[1,"é"]}'},
                            }
                        ]
                    },
                )
            ],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        text("before"),
                        {"type": "tool_result", "tool_use_id": "1", "content": "42", **CACHED},
                        {"type": "tool_result", "tool_use_id": "2", "content": [text("a"), text("b")]},
                        {"type": "tool_result", "tool_use_id": "3"},
                        {"type": "tool_result", "tool_use_id": "4", "is_error": True, "content": "no file"},
                        {"type": "tool_result", "tool_use_id": "5", "is_error": True, "content": []},
                        {"type": "tool_result", "tool_use_id": "6", "is_error": False, "content": None},
                        text("after"),
                    ],
                }
            ],
            [
                Message("tool", "42", {"tool_call_id": "1"}),
                Message("tool", "a\nb", {"tool_call_id": "2"}),
                Message("tool", "", {"tool_call_id": "3"}),
                Message("tool", "The tool reported an error:\nno file", {"tool_call_id": "4"}),
                Message("tool", "The tool reported an error.", {"tool_call_id": "5"}),
                Message("tool", "", {"tool_call_id": "6"}),
                Message("user", "before\nafter"),
            ],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "title": "T", "source": {"type": "text", "data": "d"}},
                        {"type": "document", "source": {"type": "content", "content": [text("x"), text("y")]}},
                        {"type": "search_result", "source": "s", "title": "t", "content": [text("found")]},
                    ],
                }
            ],
            [Message("user", "T\nd\nx\ny\nt\ns\nfound")],
        ),
    ],
)
def test_turns(turns, expected):
    assert list(query(*turns).messages) == expected


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}, **CACHED}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}


def test_images_are_those_of_chat():
    result = {"type": "tool_result", "tool_use_id": "1", "content": [text("seen"), PICTURE], "is_error": True}
    tool, user = query({"role": "user", "content": [result, text("a"), PICTURE, text("b"), LINKED]}).messages
    here, there = Image(f"data:image/png;base64,{PNG}"), Image("https://example.com/a.png")
    assert user == Message.of("user", ["a", here, "b", there])
    assert tool == Message.of("tool", ["The tool reported an error:", "seen", here], {"tool_call_id": "1"})
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": here.url}}]
    chat = chat_request({"model": "m", "messages": [{"role": "user", "content": parts}]}, LIMITS, None).query
    assert chat.messages == query({"role": "user", "content": [text("a"), PICTURE]}).messages


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"type": "base64", "media_type": "image/jpeg", "data": PNG}, "invalid_image"),
        ({"type": "base64", "media_type": "image/png", "data": "?"}, "invalid_value"),
        ({"type": "url", "url": "file:///etc/passwd"}, "invalid_value"),
    ],
)
def test_images_that_are_refused(source, code):
    with pytest.raises(RequestError) as caught:
        query({"role": "user", "content": [text("a"), {"type": "image", "source": source}]})
    assert (caught.value.param, caught.value.code) == ("messages.0.content.1.source", code)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("be brief", "be brief"),
        ([text("be brief", **CACHED), text(""), text("be kind")], "be brief\nbe kind"),
        ([text("x-anthropic-billing-header: cc_version=2; cch=1f"), text("be brief")], "be brief"),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_system(system, expected):
    first = query(system=system).messages[0]
    assert first == (Message("user", "hi") if expected is None else Message("system", expected))


def test_it_is_the_query_that_chat_has():
    ours = query(
        HI,
        {"role": "assistant", "content": [text("let me see"), CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"}]},
        system="be brief",
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        metadata={"user_id": "ann"},
    )
    call = {"id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": '{"a":[1,"é"]}'}}
    theirs = chat_request(
        {
            "model": "m",
            "max_tokens": 10,
            "messages": [
                {"role": "system", "content": "be brief"},
                HI,
                {"role": "assistant", "content": "let me see", "tool_calls": [call]},
                {"role": "tool", "content": "42", "tool_call_id": "toolu_1"},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["END"],
            "tools": [FUNCTION],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "user": "ann",
        },
        LIMITS,
        "acme",
    ).query
    assert ours == theirs


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "get"}, {"type": "function", "function": {"name": "get"}}),
    ],
)
def test_tool_choice(choice, expected):
    found = query(tools=[{**TOOL, "type": "custom", **CACHED, "defer_loading": True}], tool_choice=choice)
    assert (found.tool_choice, list(found.tools)) == (expected, [FUNCTION])


def test_a_format():
    schema = {"type": "object"}
    expected = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    form = {"type": "json_schema", "schema": schema}
    assert query(output_config={"effort": "high", "format": form}).response_format == expected
    assert query(output_format=form).response_format == expected
    assert query(output_config={"effort": "low"}).response_format is None


def test_what_agents_send_and_nothing_here_needs():
    hints = {name: {"edits": [{"type": "clear_tool_uses_20250919"}]} for name in HINTS}
    neutral = {"container": None, "mcp_servers": [], "inference_geo": None, "stream": True, "tools": []}
    found = query(**hints, **neutral, thinking={"type": "adaptive", "display": "summarized"}, top_k=-1)
    assert found == query()


def test_top_k_and_the_operator_s_longest_answer():
    found = query(top_k=40, max_tokens=64_000)
    assert (found.extra, found.sampling.max_tokens) == ({"top_k": 40}, 100)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"max_tokens": None}, "max_tokens", "must be a valid integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": 1.5}, "temperature", "less than or equal to 1"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [HI] * 9}, "messages", "at most 8 messages, got 9"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'tool' is not one of"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "messages.0.content.0.type", "'tool_use' is not one of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]},
            "messages.0.content.0.type",
            "serve",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
            "messages.0.content.0.source.type",
            "'base64' is not one of 'text', 'content'",
        ),
        ({"stop_sequences": ["a", "b", "c"]}, "stop_sequences", "at most 2 sequences"),
        ({"stop_sequences": ["abcdef"]}, "stop_sequences", "at most 5 characters"),
        ({"stop_sequences": [""]}, "stop_sequences.0", "at least 1 character"),
        ({"tools": [TOOL, TOOL]}, "tools", "the same name"),
        ({"tools": [TOOL, TOOL, TOOL]}, "tools", "at most 2 tools"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema", "Missing required parameter"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "only allowed with tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "put"}}, "tool_choice", "put is not among"),
        ({"system": 7}, "system", "a string or a list of blocks"),
        ({"model": None}, "model", "must be a valid string"),
        ({"max_completion_tokens": 7}, "max_completion_tokens", "Unknown parameter: max_completion_tokens"),
        ({"metadata": {"user_id": "x" * 513}}, "metadata.user_id", "at most 512"),
    ],
)
def test_what_is_refused(fields, param, said):
    with pytest.raises(RequestError) as caught:
        query(**fields)
    assert caught.value.param == param and said in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools.1.type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [{"type": "text_editor_20250728", "name": "edit"}]}, "tools.0.type"),
        ({"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 1}]}, "tools.0.type"),
        ({"container": "c1"}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
    ],
)
def test_what_only_anthropic_s_machines_do_is_refused_by_name(fields, param):
    with pytest.raises(UnsupportedParameter) as caught:
        query(**fields)
    kind = fields["tools"][-1]["type"] if "tools" in fields else param
    assert caught.value.param == param and kind in caught.value.message


def test_counting_needs_no_max_tokens():
    given, found = counted_request({"model": "m", "messages": [HI], "system": "s", "tools": [TOOL]}, LIMITS, None)
    assert given.model == "m" and [m.content for m in found.messages] == ["s", "hi"] and len(found.tools) == 1
