"""OpenAI's client against a real server: typed answers, events, tools, errors, and guards."""

import asyncio
import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from serve_app.errors import UpstreamError
from tests.api.dialects.responses.doubles import Said, SayingPool, checked_response, events_of, replayed
from tests.api.fakes import services
from tests.api.server import serving
from tests.guards.fakes import guards

pytestmark = pytest.mark.usefixtures("certificates_are_read_once")

TOOL = {
    **{"type": "function", "name": "add", "description": "adds", "strict": True},
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
}
ASKED = {"model": "jethro", "input": "hi"}

SAYINGS = [
    {"text": "hello there"},
    {"text": "hello there", "thought": "hm, well"},
    {"calls": (("add", '{"a": 1}'),)},
    {"text": "so", "calls": (("add", '{"a": 1}'), ("add", "{}"))},
    {"refusal": "I will not."},
    {"text": "cut off he", "finish": "length"},
    {"text": "", "finish": "content_filter"},
    {"text": ""},
]


@pytest.mark.parametrize("said", SAYINGS, ids=str)
def test_streamed_and_whole_agree_and_are_what_the_client_reads(served, client, said):
    served.says(**said)
    whole = served.post().json()
    events = served.events()
    last = events[-1]["response"]
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert replayed(events) == last["output"]
    status = "incomplete" if said.get("finish") else "completed"
    assert events[-1]["type"] == f"response.{status}" and whole["status"] == status

    def without_ids(response):
        text = json.dumps({k: v for k, v in response.items() if k not in ("created_at", "completed_at", "jethro")})
        return json.loads(text.replace(response["id"].removeprefix("resp_"), "ID"))

    assert without_ids(whole) == without_ids(last)
    typed = checked_response(whole)
    assert typed.output_text == said.get("text", "")
    with client.responses.stream(**ASKED) as stream:
        kinds = [event.type for event in stream]
    assert kinds == [event["type"] for event in events]
    if status == "completed":
        assert stream.get_final_response().output_text == said.get("text", "")
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(said.get("finish", ""))
    assert (whole["incomplete_details"] or {}).get("reason") == reason
    assert (typed.completed_at is None) == (status == "incomplete")


def test_the_same_query_by_chat_and_responses_gives_the_same(served):
    served.says("hello")
    chat = httpx.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "jethro", "messages": [{"role": "user", "content": "hi"}]},
        headers={"authorization": "Bearer k1"},
    )
    ours = served.post()
    assert served.pool.queries[0] == served.pool.queries[1]
    body, said = ours.json(), chat.json()
    assert body["output"][0]["content"][0]["text"] == said["choices"][0]["message"]["content"]
    assert body["usage"]["input_tokens"] == said["usage"]["prompt_tokens"]
    assert body["usage"]["output_tokens"] == said["usage"]["completion_tokens"]
    varying = ("decision_id", "decision_ms")
    shown = [{k: v for k, v in each["jethro"].items() if k not in varying} for each in (body, said)]
    assert shown[0] == shown[1]
    changing = {
        "x-request-id",
        "x-jethro-decision-id",
        "server-timing",
        "openai-processing-ms",
        "date",
        "content-length",
    }
    assert {k: v for k, v in ours.headers.items() if k not in changing} == {
        k: v for k, v in chat.headers.items() if k not in changing
    }
    assert ours.headers["x-jethro-decision-id"] == body["id"].removeprefix("resp_")


def test_the_request_is_echoed(served):
    served.says("hello")
    given = {
        **{"instructions": "be kind", "max_output_tokens": 99, "temperature": 0.5, "top_p": 0.9, "user": "u"},
        **{
            "metadata": {"a": "b"},
            "tools": [TOOL],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "store": False,
        },
        **{"reasoning": {"effort": None, "summary": "auto"}, "prompt_cache_key": "k", "safety_identifier": "s"},
    }
    response = served.post(**given).json()
    checked_response(response)
    assert {name: response[name] for name in given} == given


def test_usage_has_its_details(served):
    usage = {
        **{"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    served.says("hello", usage=usage)
    for response in (served.post().json(), served.events()[-1]["response"]):
        assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4
        assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
        assert response["usage"]["total_tokens"] == 8


def test_log_probabilities_are_real(served, client):
    served.says("hello", logprobs=True)
    include = ["message.output_text.logprobs"]
    answer = client.responses.create(**ASKED, include=include, top_logprobs=2)
    assert [entry.token for entry in answer.output[0].content[0].logprobs] == list("hello")
    assert served.pool.queries[0].sampling.top_logprobs == 2
    deltas = [e for e in served.events(include=include) if e["type"] == "response.output_text.delta"]
    assert [entry["token"] for delta in deltas for entry in delta["logprobs"]] == list("hello")
    assert served.post().json()["output"][0]["content"][0]["logprobs"] == []


def test_a_loop_of_five_turns_with_tools(served, client):
    for chained in (False, True):
        items: list = [{"role": "user", "content": "add"}]
        sent, previous = list(items), None
        for i in range(5):
            served.says(thought="hm", calls=(("add", f'{{"a": {i}}}'), ("add", "{}")))
            answer = client.responses.create(
                model="jethro", input=sent if chained else items, tools=[TOOL], previous_response_id=previous
            )
            calls = [item for item in answer.output if item.type == "function_call"]
            assert len(calls) == 2
            results = [{"type": "function_call_output", "call_id": call.call_id, "output": "1"} for call in calls]
            items += [*answer.output, *results]
            sent, previous = results, answer.id if chained else None
        served.says("done")
        answer = client.responses.create(
            model="jethro", input=sent if chained else items, tools=[TOOL], previous_response_id=previous
        )
        assert answer.output_text == "done"
        turns = served.pool.queries[-1].messages
        assert [turn.role for turn in turns] == ["user", *["assistant", "tool", "tool"] * 5]
        assert [len(turn.extra["tool_calls"]) for turn in turns if turn.role == "assistant"] == [2] * 5


class Sum(BaseModel):
    total: int


def test_structured_output_is_parsed(served, client):
    served.says('{"total": 3}')
    answer = client.responses.parse(model="jethro", input="1 + 2", text_format=Sum)
    assert answer.output_parsed == Sum(total=3)
    form = served.pool.queries[0].response_format
    assert form["json_schema"]["name"] == "Sum" and form["json_schema"]["schema"]["required"] == ["total"]
    with client.responses.stream(model="jethro", input="1 + 2", text_format=Sum) as stream:
        stream.until_done()
    assert stream.get_final_response().output_parsed == Sum(total=3)
    again = client.responses.create(
        model="jethro", input=[{"role": "user", "content": "1 + 2"}, *answer.model_dump()["output"]]
    )
    assert again.output_text == '{"total": 3}'


def test_the_asynchronous_client_reads_a_stream(served):
    served.says("hello there")

    async def asked() -> str:
        async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="k1", max_retries=0) as client:
            stream = await client.responses.create(**ASKED, stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(asked()) == "hello there"


def test_lengths_are_hidden_where_the_caller_wants_it(served):
    served.says("abcdefghij")
    deltas = [e for e in served.events(stream_options={"include_obfuscation": True}) if "delta" in e]
    assert {(len(e["delta"]) + len(e["obfuscation"])) % 16 for e in deltas} == {0}
    assert all("obfuscation" not in event for event in served.events())


def test_an_error_before_the_first_byte_has_its_status_and_openais_shape(served, client):
    served.says("", error=UpstreamError("it is gone"))
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model="lab-small", input="hi", stream=stream)
        assert caught.value.status_code == 502 and "it is gone" in caught.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="jethro", input=[{"role": "user", "content": [{"type": "input_text"}]}])
    assert refused.value.param == "input[0].content[0].text"
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nobody", input="hi")
    assert unknown.value.code == "model_not_found"
    assert served.post(key="wrong").status_code == 401
    assert served.post(key="wrong").json()["error"]["code"] == "invalid_api_key"


def test_an_error_within_a_stream_is_an_event_and_the_response_that_failed(served, client):
    served.says("hello there", breaks_after=3)
    events = served.events()
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == "the model broke"
    failed = checked_response(events[-1]["response"])
    assert failed.status == "failed" and failed.error.code == "server_error"
    assert failed.output_text == "hello " and failed.output[0].status == "incomplete"
    assert not events[-1]["response"]["store"]
    stream = client.responses.create(**ASKED, stream=True)
    assert [event.type for event in stream][-1] == "response.failed"
    assert served.post(key="k1", previous_response_id=failed.id).status_code == 400


def test_a_stream_without_a_finish_fails(served):
    served.says("hello")
    served.pool.said.finish = None  # type: ignore[assignment]
    assert served.events()[-1]["response"]["status"] == "failed"


OWL = {"name": "words", "kind": "patterns", "patterns": [{"category": "code", "words": ["owl"]}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refusal", ["error", "answer"])
def test_a_guard_stops_a_request_in_this_apis_words(refusal, stream):
    pool = SayingPool(said=Said("hello"))

    def make():
        checks = guards({**OWL, "texts": ["input"]}, refusal=refusal, message="Not here.")
        return services(small=pool, change=lambda parts: parts.update(guards=checks))

    with serving(make) as url:
        answer = httpx.post(f"{url}/v1/responses", json={**ASKED, "input": "an owl", "stream": stream})
    assert pool.queries == []
    if refusal == "error":
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
        return
    response = events_of(answer.content)[-1]["response"] if stream else answer.json()
    assert checked_response(response).output_text == "Not here."
    assert response["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_guard_cuts_an_answer(stream):
    pool = SayingPool(said=Said("the owl flies"))

    def make():
        checks = guards({**OWL, "texts": ["output"]}, message="Not here.")
        return services(small=pool, change=lambda parts: parts.update(guards=checks))

    with serving(make) as url:
        answer = httpx.post(f"{url}/v1/responses", json={**ASKED, "stream": stream})
        probable = httpx.post(f"{url}/v1/responses", json={**ASKED, "top_logprobs": 1})
    response = events_of(answer.content)[-1]["response"] if stream else answer.json()
    assert "owl" not in answer.text and response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "content_filter"}
    assert (probable.status_code, probable.json()["error"]["param"]) == (400, "include")
