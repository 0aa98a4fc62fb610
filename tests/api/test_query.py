import json

import pytest

from serve_app.api.query import chat_request, check, completion_request, hinted
from serve_app.api.schemas import FeedbackRequest
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.types import PROMPT_IDS, Message, Query, Sampling

LIMITS = LimitsConfig(messages=4, n=3, stop=2, stop_chars=5, top_logprobs=5, max_tokens=100, tools=2)
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(**body):
    return chat_request({"model": "jethro", "messages": [USER], **body}, LIMITS, None)


def completion(**body):
    return completion_request({"model": "jethro", "prompt": "hi", **body}, LIMITS, None)


def refused(make, **body) -> RequestError:
    with pytest.raises(RequestError) as caught:
        make(**body)
    assert caught.value.status == 400
    assert json.dumps(caught.value.body())
    return caught.value


def test_defaults():
    asked = chat()
    assert (asked.model, asked.stream, asked.include_usage) == ("jethro", False, False)
    assert asked.query.messages == (Message("user", "hi"),)
    assert asked.query.sampling == Sampling()
    assert asked.query.endpoint == "chat"
    assert completion().query.sampling == Sampling(max_tokens=16)
    assert completion().query.endpoint == "completions"
    assert completion().query.prompt == "hi"


SAMPLING = [
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"temperature": 0}, {"temperature": 0.0}),
    ({"temperature": 2.0}, {"temperature": 2.0}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"top_p": 1}, {"top_p": 1.0}),
    ({"n": 3}, {"n": 3}),
    ({"stop": "x"}, {"stop": ("x",)}),
    ({"stop": ["x", "yyyyy"]}, {"stop": ("x", "yyyyy")}),
    ({"stop": []}, {"stop": ()}),
    ({"seed": -(2**63)}, {"seed": -(2**63)}),
    ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
    ({"presence_penalty": -2}, {"presence_penalty": -2.0}),
    ({"frequency_penalty": 2.0}, {"frequency_penalty": 2.0}),
]
NULLABLE = ["max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "user"]
NULLABLE += ["stream", "stream_options", "logprobs"]
CHAT_NULLABLE = ["max_completion_tokens", "top_logprobs", "metadata", "response_format", "tools", "tool_choice"]
CHAT_NULLABLE += ["parallel_tool_calls", "logit_bias", "functions", "function_call", "store", "service_tier", "audio"]


@pytest.mark.parametrize(("body", "expected"), SAMPLING)
def test_sampling_parameters(body, expected):
    assert chat(**body).query.sampling == Sampling(**expected)
    assert completion(**body).query.sampling == Sampling(**{"max_tokens": 16, **expected})


@pytest.mark.parametrize(
    ("body", "stated"),
    [
        ({}, ()),
        ({"temperature": None}, ()),
        ({"temperature": 1}, ("temperature",)),
        ({"temperature": 0.5, "top_p": 1.0}, ("top_p",)),
        ({"temperature": 1, "top_p": 1}, ("temperature", "top_p")),
    ],
)
def test_openais_default_by_the_callers_own_word_is_known_as_such(body, stated):
    assert chat(**body).query.sampling.stated == completion(**body).query.sampling.stated == stated


@pytest.mark.parametrize("name", NULLABLE)
def test_null_means_the_default(name):
    assert completion(**{name: None}) == completion()


@pytest.mark.parametrize("name", NULLABLE + CHAT_NULLABLE)
def test_null_means_the_default_in_chat(name):
    assert chat(**{name: None}) == chat()


OUT_OF_BOUNDS = [
    *[("max_tokens", v) for v in (0, -1, 101, 1.5, "5", True, 2**70)],
    *[("temperature", v) for v in (-0.1, 2.1, "1", True, [])],
    *[("top_p", v) for v in (0, -1, 1.01, "1")],
    *[("n", v) for v in (0, 4, 1.0, "1", True)],
    *[("stop", v) for v in (5, [1], ["a", "b", "c"], "toolong", "", [""], {"a": 1}, [["a"]])],
    *[("seed", v) for v in (1.5, "1", 2**63, -(2**63) - 1)],
    *[("presence_penalty", v) for v in (-2.1, 2.1, "0")],
    *[("frequency_penalty", v) for v in (-2.1, 2.1, "0")],
    *[("stream", v) for v in (1, "true", [])],
    *[("stream_options", v) for v in (True, {"include_usage": 1}, {"x": True}, {"include_usage": True})],
    *[("user", v) for v in (5, {})],
    *[("model", v) for v in (None, "", 5, "x" * 257)],
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_BOUNDS)
def test_values_out_of_bounds_are_refused_by_name(name, value):
    for make in (chat, completion):
        assert str(refused(make, **{name: value}).param).split(".")[0] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_completion_tokens", v) for v in (0, 1.5, "1")],
        *[("top_logprobs", v) for v in (-1, 21, 1.5, "1")],
        *[("logprobs", v) for v in (1, "true")],
        *[("metadata", v) for v in ("x", {"a": 1}, {"": "x"}, {"k" * 65: "x"}, {"a": "x" * 513})],
        ("metadata", {str(i): "x" for i in range(17)}),
        *[("tools", v) for v in ({}, ["x"], [{"type": "x"}], [{"type": "function"}], [TOOL] * 3)],
        ("tools", [{"type": "function", "function": {"name": "a b"}}]),
        ("tools", [TOOL, TOOL]),
        ("tools", [{"type": "function", "function": {"name": "a", "parameters": {"x": 2**70}}}]),
        *[("tool_choice", v) for v in ("sometimes", {"type": "function"}, "required", 5)],
        ("tool_choice", {"type": "function", "function": {"name": "add"}}),
        *[("response_format", v) for v in ("json", {"type": "x"}, {}, {"type": "json_schema"})],
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}),
        ("parallel_tool_calls", "no"),
    ],
)
def test_chat_values_out_of_bounds_are_refused_by_name(name, value):
    assert str(refused(chat, **{name: value}).param).split(".")[0] == name


def test_a_bound_is_said_in_the_message():
    assert "at most 3" in refused(chat, n=4).message
    assert "equal to 2" in refused(chat, temperature=9).message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 9, "max_tokens": 9}, 9),
        ({"max_tokens": 9}, 9),
    ],
)
def test_both_names_of_max_tokens(body, expected):
    assert chat(**body).query.sampling.max_tokens == expected


def test_two_different_max_tokens_are_refused():
    assert refused(chat, max_tokens=5, max_completion_tokens=6).param == "max_tokens"


def test_max_completion_tokens_is_bounded_too():
    assert "at most 100" in refused(chat, max_completion_tokens=101).message


def test_logprobs_of_chat():
    assert chat(logprobs=True, top_logprobs=5).query.sampling == Sampling(logprobs=True, top_logprobs=5)
    assert chat(logprobs=True).query.sampling == Sampling(logprobs=True)
    assert refused(chat, top_logprobs=2).param == "top_logprobs"
    assert refused(chat, top_logprobs=2, logprobs=False).param == "top_logprobs"
    assert "at most 5" in refused(chat, top_logprobs=6, logprobs=True).message


@pytest.mark.parametrize("value", [0, 5])
def test_logprobs_of_completions_are_a_number(value):
    sampling = completion(logprobs=value).query.sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, value)


@pytest.mark.parametrize("value", [True, -1, 21, 6])
def test_logprobs_of_completions_out_of_bounds(value):
    assert refused(completion, logprobs=value).param == "logprobs"


def test_streaming():
    asked = chat(stream=True, stream_options={"include_usage": True})
    assert (asked.stream, asked.include_usage) == (True, True)
    assert chat(stream=True).include_usage is False
    assert refused(chat, stream=False, stream_options={"include_usage": True}).param == "stream_options"


def test_who_asks_travels_with_the_query():
    query = chat_request({"model": "m", "messages": [USER], "user": "u", "metadata": {"a": "b"}}, LIMITS, "acme").query
    assert (query.user, query.metadata, query.tenant) == ("u", {"a": "b"}, "acme")


def test_tools():
    query = chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False).query
    assert (query.tools, query.tool_choice, query.extra) == ((TOOL,), "required", {"parallel_tool_calls": False})
    named = {"type": "function", "function": {"name": "add"}}
    assert chat(tools=[TOOL], tool_choice=named).query.tool_choice == named
    assert chat(tool_choice="none").query.tools == ()
    assert chat(tools=[]).query.tools == ()


def test_a_named_tool_must_be_there():
    named = {"type": "function", "function": {"name": "subtract"}}
    assert refused(chat, tools=[TOOL], tool_choice=named).param == "tool_choice"


def test_response_formats():
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    wanted = {"type": "json_schema", "json_schema": schema}
    assert chat(response_format=wanted).query.response_format == wanted
    assert chat(response_format={"type": "json_object"}).query.response_format == {"type": "json_object"}
    assert chat(response_format={"type": "text"}).query.response_format is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"50256": -100}),
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("store", True),
        ("store", 0),
        ("service_tier", "flex"),
        ("reasoning_effort", "high"),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("prompt_cache_key", "k"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name, value):
    error = refused(chat, **{name: value})
    assert isinstance(error, UnsupportedParameter)
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert name in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [("modalities", ["text"]), ("store", False), ("service_tier", "auto"), ("logit_bias", {}), ("functions", [])],
)
def test_what_asks_for_nothing_passes(name, value):
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2), ("logit_bias", {"1": 1})])
def test_what_completions_cannot_honour(name, value):
    assert (refused(completion, **{name: value}).param, refused(completion, **{name: value}).code) == (
        name,
        "unsupported_parameter",
    )


@pytest.mark.parametrize(
    "name", ["top_k", "min_p", "guided_json", "foo", "Model", "MESSAGES", "max_token", "extra_body"]
)
def test_unknown_parameters_are_refused_by_name(name):
    error = refused(chat, **{name: 1})
    assert (error.param, error.code) == (name, "unknown_parameter")


def test_a_key_in_the_wrong_case_is_named_with_the_right_one():
    with pytest.raises(RequestError, match="mean model") as caught:
        chat_request({"Model": "jethro", "messages": [USER]}, LIMITS, None)
    assert (caught.value.param, caught.value.code) == ("Model", "unknown_parameter")
    error = refused(chat, messages=[{"role": "user", "Content": "hi"}])
    assert (error.param, error.code) == ("messages.0.Content", "unknown_parameter")
    assert refused(chat, messages=[{"Role": "user", "content": "hi"}]).param == "messages.0.role"


def test_prompts():
    assert completion(prompt=["one"]).query.prompt == "one"
    assert [m.content for m in completion(prompt=["a", "b"]).query.messages] == ["a", "b"]
    assert list(completion(prompt=[1, 2]).query.prompt_ids) == [1, 2]
    assert [m.extra for m in completion(prompt=[[1], [2, 3]]).query.messages] == [
        {PROMPT_IDS: [1]},
        {PROMPT_IDS: [2, 3]},
    ]
    for prompt in ("", [], [""], [1, "a"], [[]], None, 5, {"a": 1}, [None]):
        assert str(refused(completion, prompt=prompt).param).split(".")[0] == "prompt"


@pytest.mark.parametrize("make", [chat_request, completion_request])
@pytest.mark.parametrize("missing", ["model", "messages", "prompt"])
def test_what_must_be_there(make, missing):
    body = {"model": "m", "messages": [USER]} if make is chat_request else {"model": "m", "prompt": "x"}
    if missing in body:
        del body[missing]
        with pytest.raises(RequestError) as caught:
            make(body, LIMITS, None)
        assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")


def test_feedback():
    given = check(FeedbackRequest, {"decision_id": "x", "score": 1, "comment": "good"})
    assert (given.decision_id, given.score, given.comment) == ("x", 1.0, "good")
    for score in (-0.1, 1.1, "1", True):
        with pytest.raises(RequestError) as caught:
            check(FeedbackRequest, {"decision_id": "x", "score": score})
        assert caught.value.param == "score"


def test_a_task_hint_is_a_name_or_refused() -> None:
    query = Query((Message("user", "hi"),))
    assert hinted(query, [(b"x-jethro-task", b" sort ")]).task == "sort"
    assert hinted(query, [(b"host", b"x")]) is query
    for text in (b"", b"Sort", b"a b", b"x" * 49, b"\xff"):
        with pytest.raises(RequestError, match="x-jethro-task"):
            hinted(query, [(b"x-jethro-task", text)])
