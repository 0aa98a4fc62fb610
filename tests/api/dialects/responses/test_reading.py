"""Bodies of /v1/responses as the queries that chat would make, and the paths in their errors."""

import pytest

from serve_app.api.dialects.responses.conversation import in_own_words
from serve_app.api.dialects.responses.ids import identified, input_id, output_id, place_of, response_id
from serve_app.api.dialects.responses.reading import checked, read
from serve_app.api.query import chat_request
from serve_app.config.tree import LimitsConfig
from serve_app.erasure import Origin
from serve_app.errors import NotFound, RequestError, UnsupportedParameter
from serve_app.store.base import KeptResponse

LIMITS = LimitsConfig()
ID = "0123456789abcdef01234567"
ADD = {"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}, "strict": True}
CHAT_ADD = {"type": "function", "function": {k: v for k, v in ADD.items() if k != "type"}}


async def nothing(response_id):
    raise NotFound("none")


async def query_of(input="hi", earlier=(), find=nothing, **more):
    body = {"model": "jethro", "input": input, **more}
    return await read(body, checked(body), earlier, find, LIMITS, "acme")


async def refusal(input="hi", **more) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await query_of(input, **more)
    assert caught.value.param is None or caught.value.param in caught.value.message
    return caught.value


def chat(messages, **more):
    return chat_request({"model": "jethro", "messages": messages, **more}, LIMITS, "acme")


CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}", "id": "fc_1", "status": "completed"}
TURN = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("body", "messages", "same"),
    [
        ({"input": "hi"}, [{"role": "user", "content": "hi"}], {}),
        (
            {"input": "hi", "instructions": "be kind"},
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            {},
        ),
        (
            {"input": [{"role": role, "content": "x"} for role in ("developer", "system", "user", "assistant")]},
            [{"role": role, "content": "x"} for role in ("developer", "system", "user", "assistant")],
            {},
        ),
        (
            {
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}
                ]
            },
            [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}],
            {},
        ),
        (
            {
                "input": [
                    {"role": "user", "content": "add"},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
                    {
                        "type": "message",
                        "role": "assistant",
                        "id": "msg_1",
                        "status": "completed",
                        "content": [
                            {"type": "output_text", "text": "so", "annotations": [], "logprobs": [], "parsed": 1}
                        ],
                    },
                    CALL,
                    {**CALL, "call_id": "c2", "parsed_arguments": {}},
                    {"type": "function_call_output", "call_id": "c1", "output": "1"},
                    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
                ]
            },
            [
                {"role": "user", "content": "add"},
                {"role": "assistant", "content": "so", "tool_calls": [TURN, {**TURN, "id": "c2"}]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
                {"role": "tool", "tool_call_id": "c2", "content": "2"},
            ],
            {},
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
            [{"role": "assistant", "content": "no"}],
            {},
        ),
        (
            {
                "input": "hi",
                "max_output_tokens": 9,
                "temperature": 0.5,
                "top_p": 0.5,
                "user": "u",
                "metadata": {"a": "b"},
            },
            [{"role": "user", "content": "hi"}],
            {"max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.5, "user": "u", "metadata": {"a": "b"}},
        ),
        (
            {"input": "hi", "tools": [ADD], "tool_choice": {"type": "function", "name": "add"}},
            [{"role": "user", "content": "hi"}],
            {"tools": [CHAT_ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        ),
        (
            {
                "input": "hi",
                "tools": [ADD, {**ADD, "name": "other"}],
                "parallel_tool_calls": False,
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "add"}],
                },
            },
            [{"role": "user", "content": "hi"}],
            {"tools": [CHAT_ADD], "tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
            [{"role": "user", "content": "hi"}],
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        ),
        (
            {"input": "hi", "text": {"format": {"type": "json_object"}, "verbosity": "medium"}},
            [{"role": "user", "content": "hi"}],
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
            [{"role": "user", "content": "hi"}],
            {"logprobs": True, "top_logprobs": 2},
        ),
    ],
)
async def test_a_request_has_the_query_of_the_same_request_to_chat(body, messages, same):
    assert (await query_of(**body)).parsed == chat(messages, **same)


NEUTRAL = {
    **dict.fromkeys(
        (
            *("background", "conversation", "prompt", "moderation", "context_management", "include", "instructions"),
            *("max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id"),
            *("prompt_cache_key", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store"),
            *("stream", "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p"),
            *("truncation", "user"),
        )
    )
}


async def test_null_is_no_request():
    assert (await query_of(**NEUTRAL)).parsed == chat([{"role": "user", "content": "hi"}])
    usual = {"background": False, "truncation": "disabled", "include": ["reasoning.encrypted_content"], "store": False}
    usual |= {"prompt_cache_key": "k", "service_tier": "auto", "text": {"format": {"type": "text"}}, "tools": []}
    usual |= {"reasoning": {"effort": None, "summary": "auto"}, "max_tool_calls": 3, "prompt_cache_retention": "24h"}
    found = (await query_of(**usual)).parsed
    assert found.query.messages == chat([{"role": "user", "content": "hi"}]).query.messages


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        *(
            ({"tools": [ADD, {"type": kind}]}, "tools[1]", kind)
            for kind in (
                "web_search",
                "file_search",
                "computer_use_preview",
                "code_interpreter",
                "image_generation",
                "mcp",
                "custom",
            )
        ),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"background": True}, "background", "stream"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions"),
        ({"truncation": "auto"}, "truncation", "shorten"),
        ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0]", "computer_call"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]",
            "input_file",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
            "image_url",
        ),
    ],
)
async def test_what_is_not_supported_is_named(body, param, says):
    error = await refusal(**body)
    assert isinstance(error, UnsupportedParameter)
    assert error.param == param and says in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {
                "input": [
                    {"role": "user", "content": "a"},
                    {"role": "user", "content": [{"type": "input_text", "text": 1}]},
                ]
            },
            "input[1].content[0].text",
        ),
        ({"input": [{"role": "nobody", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "output": "1"}]}, "input[0].call_id"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 10**9}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [ADD],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
            },
            "tool_choice",
        ),
        ({"include": ["everything"]}, "include[0]"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"nonsense": 1}, "nonsense"),
        ({"input": [{"role": "user", "content": "x"}] * 513}, "input"),
    ],
)
async def test_errors_name_the_path_as_openai_does(body, param):
    assert (await refusal(**body)).param == param


async def test_a_missing_field_is_named():
    with pytest.raises(RequestError) as caught:
        checked({"model": "jethro"})
    assert (caught.value.param, caught.value.code) == ("input", "missing_required_parameter")


@pytest.mark.parametrize(
    ("param", "own"),
    [
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("tools.2.function.name", "tools[2].name"),
        ("logprobs", "include"),
        ("temperature", "temperature"),
    ],
)
def test_errors_of_the_query_have_the_names_of_this_api(param, own):
    error = in_own_words(RequestError(f"{param}: is bad.", param=param))
    assert (error.param, error.message) == (own, f"{own}: is bad.")


def kept(output=(), input=(), privacy="any"):
    import orjson

    body, items = orjson.dumps({"output": list(output)}), orjson.dumps(list(input))
    return KeptResponse(response_id(ID), Origin(ID, "acme", (), 1.0), privacy, None, body, items)


SAID = {
    **{"type": "message", "role": "assistant", "status": "completed", "id": output_id(ID, "message", 0)},
    "content": [{"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}],
}
ASKED = {"type": "message", "role": "user", "id": input_id(ID, "message", 0), "content": "well?", "status": "completed"}


async def test_an_earlier_answer_is_continued_without_its_instructions():
    found = await query_of("go on", earlier=[kept([SAID], [ASKED])], instructions="now")
    turns = [(m.role, m.content) for m in found.parsed.query.messages]
    assert turns == [("system", "now"), ("user", "well?"), ("assistant", "yes"), ("user", "go on")]


async def test_the_strictest_class_of_what_is_continued_holds():
    assert (await query_of(earlier=[kept([SAID]), kept([SAID], privacy="private")])).parsed.query.privacy == "private"
    assert (await query_of(earlier=[kept([SAID])])).parsed.query.privacy == "any"


async def test_a_reference_is_the_item_that_it_names():
    async def find(id_):
        assert id_ == response_id(ID)
        return kept([SAID], [ASKED], "private")

    items = [{"type": "item_reference", "id": ASKED["id"]}, {"id": SAID["id"]}, {"role": "user", "content": "go on"}]
    found = await query_of(items, find=find)
    assert [m.content for m in found.parsed.query.messages] == ["well?", "yes", "go on"]
    assert found.parsed.query.privacy == "private"
    assert found.items[1] == SAID


@pytest.mark.parametrize("id_", ["msg_elsewhere", output_id(ID, "message", 7)])
async def test_a_reference_to_nothing_is_named(id_):
    async def find(_):
        return kept([SAID])

    for look_up in (find, nothing):
        with pytest.raises(NotFound) as caught:
            await query_of([{"type": "item_reference", "id": id_}], find=look_up)
        assert (caught.value.code, caught.value.param) == ("not_found", "input[0]")


def test_kept_items_are_complete_and_have_ids():
    items = identified([{"type": "message", "role": "user", "content": "a"}, dict(SAID)], ID)
    assert items[0]["content"] == [{"type": "input_text", "text": "a"}]
    assert place_of(items[0]["id"]) == response_id(ID) and items[1]["id"] == SAID["id"]
    assert place_of("msg_" + ID) is None


PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": ["text", "image"]}],
            "input[1].content[1].image_url",
        ),
        ([{"type": "function_call_output", "call_id": "c", "output": ["image"]}], "input[0].output[0].image_url"),
    ],
)
async def test_images_are_named_by_their_place_in_the_input(items, param):
    def parts(url):
        known = {"text": {"type": "input_text", "text": "x"}, "image": {"type": "input_image", "image_url": url}}
        return [
            {k: [known[part] for part in v] if isinstance(v, list) else v for k, v in item.items()} for item in items
        ]

    assert (await refusal(parts("ftp://x"))).param == param
    query = (await query_of(parts(PNG))).parsed.query
    (image,) = [part for message in query.messages for part in message.parts if not isinstance(part, str)]
    assert (image.param, image.url, image.detail) == (param, PNG, None)
