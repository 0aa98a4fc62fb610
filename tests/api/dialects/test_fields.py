"""Parameters beyond OpenAI's common ones: neutral values, checks, and what is done with unknown ones."""

import pytest

from serve_app.api.dialects.fields import NAMES, FieldRules, rules_of
from serve_app.api.query import chat_request, completion_request
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError
from serve_app.wire.parameters import HINTS, NEEDED, PASSED
from tests.api.fakes import FakePool, config, services

LIMITS = LimitsConfig(max_tokens=100)
REJECT = FieldRules()


def chat(rules=REJECT, **body):
    body = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}], **body}
    return chat_request(body, LIMITS, None, rules)


def completion(rules=REJECT, **body):
    return completion_request({"model": "jethro", "prompt": "hi", **body}, LIMITS, None, rules)


NEUTRAL = [
    *[("top_k", v) for v in (-1, 0)],
    *[("repetition_penalty", v) for v in (1.0, 1)],
    *[("length_penalty", v) for v in (1.0, 1)],
    *[("min_p", v) for v in (0, 0.0)],
    ("min_tokens", 0),
    ("best_of", 1),
    ("use_beam_search", False),
    ("early_stopping", False),
    ("skip_special_tokens", True),
    ("spaces_between_special_tokens", True),
    ("ignore_eos", False),
    ("include_stop_str_in_output", False),
    ("add_generation_prompt", True),
    ("continue_final_message", False),
    ("stop", ""),
    ("stop", []),
    ("logit_bias", {}),
    ("tools", []),
    ("functions", []),
    ("function_call", "none"),
    ("echo", False),
    ("suffix", ""),
    ("stop_token_ids", []),
    ("bad_words", []),
    ("allowed_token_ids", []),
    ("documents", []),
    ("chat_template_kwargs", {}),
    ("modalities", ["text"]),
    ("priority", 0),
    ("store", False),
    ("verbosity", "medium"),
    ("include_reasoning", True),
    ("return_token_ids", False),
    ("return_tokens_as_token_ids", False),
    ("truncate_prompt_tokens", -1),
    *[("service_tier", v) for v in ("auto", "default")],
    *[(name, None) for name in sorted(NAMES)],
]


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
@pytest.mark.parametrize("make", [chat, completion])
def test_a_neutral_value_requests_nothing(make, name, value):
    if name == "tools" and make is completion:
        pytest.skip("completions have no tools")
    assert make(**{name: value}) == make()


def test_each_endpoint_has_its_own_default_of_special_tokens():
    assert chat(add_special_tokens=False).query.extra == {}
    assert completion(add_special_tokens=True).query.extra == {}
    assert chat(add_special_tokens=True).query.extra == {"add_special_tokens": True}


def test_best_of_as_many_as_there_are_choices_requests_nothing():
    assert completion(best_of=2, n=2) == completion(n=2)
    assert completion(best_of=3, n=2).query.extra == {"best_of": 3}


WANTED = [
    ("top_k", 40),
    ("min_p", 0.05),
    ("repetition_penalty", 1.1),
    ("ignore_eos", True),
    ("min_tokens", 5),
    ("logit_bias", {"50256": -100.0}),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("priority", -3),
    ("stop_token_ids", [2, 7]),
    ("skip_special_tokens", False),
    ("use_beam_search", True),
    ("suffix", "end"),
    ("echo", True),
]
WANTED_OF_CHAT = [
    ("reasoning_effort", "high"),
    ("verbosity", "low"),
    ("prompt_cache_key", "k"),
    ("prompt_cache_retention", "24h"),
    ("service_tier", "flex"),
    ("store", True),
    ("prediction", {"type": "content", "content": "x"}),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy", "format": "mp3"}),
    ("web_search_options", {}),
    ("functions", [{"name": "f"}]),
    ("cache_control", {"type": "ephemeral"}),
]


@pytest.mark.parametrize(("name", "value"), WANTED)
def test_another_value_travels_under_its_name(name, value):
    assert chat(**{name: value}).query.extra == completion(**{name: value}).query.extra == {name: value}


@pytest.mark.parametrize(("name", "value"), WANTED_OF_CHAT)
def test_those_of_chat(name, value):
    assert chat(**{name: value}).query.extra == {name: value}
    if name in HINTS:
        assert completion(**{name: value}) == completion(), "no completions anywhere know it"


def test_every_parameter_is_needed_or_a_hint():
    assert NAMES <= NEEDED | HINTS
    assert not NEEDED & HINTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("top_k", v) for v in (-2, 1.5, "40", True, 2**31)],
        *[("min_p", v) for v in (-0.1, 1.1, "0", True)],
        *[("repetition_penalty", v) for v in (0, -1, "1", 101)],
        *[("ignore_eos", v) for v in (1, "true")],
        *[("min_tokens", v) for v in (-1, 1.5, "1")],
        *[("logit_bias", v) for v in ([], "x", {"a": 1}, {"1": 101}, {"1": "1"}, {"-1": 1}, {"1": None})],
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        *[("chat_template_kwargs", v) for v in ([], "x", {"x": 2**70})],
        *[("chat_template_kwargs", {name: "x"}) for name in ("chat_template", "tokenize", "messages", "tools")],
        *[("priority", v) for v in (1.5, "1", True, 2**31)],
        *[("stop_token_ids", v) for v in ([-1], ["a"], 5)],
        *[("store", v) for v in (0, "no")],
        *[("service_tier", v) for v in (5, {})],
        *[("reasoning_effort", v) for v in (5, [])],
        *[("modalities", v) for v in ("text", [1])],
        ("best_of", 0),
    ],
)
@pytest.mark.parametrize("make", [chat, completion])
def test_a_wrong_value_is_refused_by_name(make, name, value):
    with pytest.raises(RequestError) as caught:
        make(**{name: value})
    assert str(caught.value.param).split(".")[0] == name
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")


def test_an_answer_cannot_be_shorter_than_its_longest():
    with pytest.raises(RequestError, match="more than the 4") as caught:
        chat(min_tokens=5, max_tokens=4)
    assert caught.value.param == "min_tokens"
    with pytest.raises(RequestError, match="more than the 16"):
        completion(min_tokens=17)


def test_options_of_a_stream_that_change_nothing_are_taken():
    for options in ({"include_obfuscation": True}, {"include_obfuscation": False}, {"continuous_usage_stats": True}):
        asked = chat(stream=True, stream_options={**options, "include_usage": True})
        assert (asked.stream, asked.include_usage) == (True, True)


def test_no_alternatives_need_no_logprobs():
    assert chat(top_logprobs=0) == chat()


@pytest.mark.parametrize("make", [chat, completion])
def test_unknown_fields_are_refused_dropped_or_passed(make):
    with pytest.raises(RequestError, match="Unknown parameter: typical_p") as caught:
        make(typical_p=0.9)
    assert caught.value.code == "unknown_parameter"
    assert make(FieldRules("drop"), typical_p=0.9) == make()
    assert make(FieldRules("pass"), typical_p=0.9).query.extra == {PASSED: {"typical_p": 0.9}}
    assert make(FieldRules("pass"), top_k=5).query.extra == {"top_k": 5}


def test_a_passed_field_is_plain_json():
    with pytest.raises(RequestError, match="plain JSON") as caught:
        chat(FieldRules("pass"), odd=2**70)
    assert caught.value.param == "odd"


def test_a_hint_names_the_parameter_that_was_meant():
    with pytest.raises(RequestError, match="mean repetition_penalty"):
        chat(repetition_penality=1.1)


def test_a_typo_inside_a_message_is_refused_whatever_the_rules():
    for rules in (REJECT, FieldRules("drop"), FieldRules("pass", True, True)):
        with pytest.raises(RequestError, match="Did you mean content") as caught:
            chat(rules, messages=[{"role": "assistant", "contnet": "x", "audio": None}])
        assert caught.value.param == "messages.0.contnet"


def test_rules_of_a_config():
    remote = {"model": "up", "engine": {"kind": "openai", "urls": ["http://127.0.0.1:9/v1"]}}
    assert rules_of(config()) == FieldRules()
    tree = config(pools={"large": remote}, server={"unknown_fields": "drop"})
    assert rules_of(tree) == FieldRules("drop", False, True)
    remote["engine"] |= {"echoes": True, "parameters": []}
    assert rules_of(config(pools={"large": remote})) == FieldRules("reject", True, False)


ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_pool_that_cannot_honour_a_parameter_is_not_chosen(client):
    small, large = FakePool(), FakePool("large", "lab-large")
    small.capabilities = type(small.capabilities)(guided=True, tools=True)
    response = await client(services(small=small, large=large)).post("/v1/chat/completions", json={**ASK, "top_k": 5})
    assert (response.status_code, response.headers["x-jethro-pool"]) == (200, "large")
    assert large.queries[0].extra == {"top_k": 5}


async def test_no_pool_can(client):
    pools = {"small": FakePool(), "large": FakePool("large", "lab-large")}
    for pool in pools.values():
        pool.capabilities = type(pool.capabilities)(guided=True, tools=True)
    http = client(services(**pools))
    for path, body in (("chat/completions", ASK), ("completions", {"model": "jethro", "prompt": "hi"})):
        error = (await http.post(f"/v1/{path}", json={**body, "min_p": 0.5})).json()["error"]
        assert (error["param"], error["code"]) == ("min_p", "unsupported_parameter")
        for hint in ({"service_tier": "flex"}, {"store": True}, {"prompt_cache_key": "k"}, {"priority": 1}):
            assert (await http.post(f"/v1/{path}", json={**body, **hint})).status_code == 200


async def test_unknown_fields_by_config(client):
    http = client(services(tree=config(server={"unknown_fields": "drop"})))
    assert (await http.post("/v1/chat/completions", json={**ASK, "typical_p": 1})).status_code == 200
    assert (await client().post("/v1/chat/completions", json={**ASK, "typical_p": 1})).status_code == 400


@pytest.mark.parametrize("name", ["messages", "max_completion_tokens", "tools", "adapter"])
def test_what_means_something_elsewhere_is_never_passed(name):
    with pytest.raises(RequestError) as caught:
        completion(FieldRules("pass"), **{name: 5})
    assert caught.value.param == name
