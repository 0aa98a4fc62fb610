""""""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.types import Message, Query, Sampling
from serve_app.wire.requests import query_from_openai, query_to_openai

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        content=TEXT,
        extra=st.dictionaries(st.sampled_from(["name", "tool_call_id"]), TEXT, max_size=1),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
SAMPLING = st.builds(
    Sampling,
    max_tokens=st.none() | st.integers(1, 99),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    n=st.integers(1, 8),
    stop=st.lists(TEXT.filter(bool), max_size=3).map(tuple),
    seed=st.none() | st.integers(0, 2**31),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logprobs=st.just(True),
    top_logprobs=st.integers(0, 20),
)
QUERIES = st.builds(
    Query,
    messages=MESSAGES,
    sampling=SAMPLING | st.just(Sampling()),
    tools=st.just(()) | st.just(({"type": "function", "function": {"name": "f"}},)),
    tool_choice=st.none() | st.just("auto") | st.just({"type": "function", "function": {"name": "f"}}),
    response_format=st.none() | st.just({"type": "json_object"}),
    user=st.none() | TEXT,
    adapter=st.none() | TEXT,
    extra=st.just({}) | st.just({"guided_regex": "a+"}),
)


@given(QUERIES, st.booleans())
def test_a_chat_query_survives_the_wire(query, stream):
    body = orjson.loads(orjson.dumps(query_to_openai(query, model="m", stream=stream)))
    assert body["model"] == "m"
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)
    assert query_from_openai(body, "chat") == query


@pytest.mark.parametrize("stated", [(), ("temperature",), ("top_p",), ("temperature", "top_p")])
def test_what_the_caller_set_to_openais_default_travels_and_what_was_left_open_stays_open(stated):
    query = Query((Message("user", "a"),), Sampling(max_tokens=3, stated=stated))
    body = query_to_openai(query, model="m", stream=False)
    assert {key for key in ("temperature", "top_p") if key in body} == set(stated)
    assert query_from_openai(body, "chat").sampling.stated == stated


@given(TEXT, SAMPLING)
def test_a_completion_query_survives_the_wire(prompt, sampling):
    query = Query((Message("user", prompt),), sampling, endpoint="completions")
    body = orjson.loads(orjson.dumps(query_to_openai(query, model="m", stream=False)))
    assert query_from_openai(body, "completions") == query


def test_tenant_and_metadata_stay_behind():
    query = Query((Message("user", "hi"),), tenant="t", metadata={"a": "b"})
    assert query_to_openai(query, model="m", stream=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_max_completion_tokens_is_the_newer_name():
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "max_completion_tokens": 5}
    assert query_from_openai(body, "chat").sampling.max_tokens == 5


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_length_travels_under_the_name_by_which_it_came(name):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], name: 3}
    assert query_to_openai(query_from_openai(body, "chat"), model="m", stream=False) == body


def test_text_parts_are_joined_and_null_is_empty():
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        ]
    }
    first, second = query_from_openai(body, "chat").messages
    assert first.content == "ab"
    assert second == Message("assistant", "", {"tool_calls": [{"id": "1"}]})


def test_a_lone_stop_string_and_null_fields():
    body = {"messages": [{"role": "user", "content": "hi"}], "stop": "x", "seed": None, "n": None}
    assert query_from_openai(body, "chat").sampling == Sampling(stop=("x",))


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "judge", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({**CHAT, "max_tokens": "many"}, "max_tokens"),
        ({**CHAT, "max_tokens": True}, "max_tokens"),
        ({**CHAT, "temperature": "hot"}, "temperature"),
        ({**CHAT, "n": 1.5}, "n"),
        ({**CHAT, "stop": [1]}, "stop"),
        ({**CHAT, "logprobs": 3}, "logprobs"),
        ({**CHAT, "tools": {}}, "tools"),
        ({**CHAT, "response_format": "json"}, "response_format"),
    ],
)
def test_a_wrong_type_is_refused_by_name(body, param):
    with pytest.raises(RequestError) as caught:
        query_from_openai(body, "chat")
    assert caught.value.param == param
    assert caught.value.status == 400


def test_a_prompt_is_text_or_token_ids():
    query = query_from_openai({"prompt": [1, 2]}, "completions")
    assert list(query.prompt_ids) == [1, 2]
    assert query_to_openai(query, model="m", stream=False)["prompt"] == [1, 2]
    for prompt in ([], [True], ["a"], [1.5], None, {}):
        with pytest.raises(RequestError, match="prompt"):
            query_from_openai({"prompt": prompt}, "completions")


@pytest.mark.parametrize("part", [{"type": "input_audio"}, {"type": "image_url", "image_url": "x"}, {}, "x"])
def test_parts_other_than_text_and_images_are_unsupported(part):
    with pytest.raises(UnsupportedParameter):
        query_from_openai({"messages": [{"role": "user", "content": [part]}]}, "chat")


def test_images_keep_their_place_and_what_the_caller_said_of_them():
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}
    content = [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    body = {"model": "m", "messages": [{"role": "user", "content": content, "name": "ann"}]}
    query = query_from_openai(body, "chat")
    assert query.text == "a\nb\nc"
    assert [image.url for image in query.images] == ["https://x.example/a.png"]
    assert query_to_openai(query, model="m", stream=False) == body
