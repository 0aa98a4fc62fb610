"""What a pool is sent of a query: the parameters and the fields that it knows."""

from serve_app.types import Capabilities, Message, Query
from serve_app.wire.honoured import honoured
from serve_app.wire.parameters import OPENAI, PASSED
from serve_app.wire.requests import query_to_openai

USER = Message("user", "hi")
CACHE = {"type": "ephemeral"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PLAIN, UPSTREAM = Capabilities(), Capabilities(parameters=frozenset(OPENAI))


def sent(query, can):
    body = query_to_openai(honoured(query, can), model="m", stream=False)
    return {name: value for name, value in body.items() if name != "model"}


def test_a_plain_query_is_the_same_object():
    query = Query((USER,))
    assert honoured(query, PLAIN) is query


def test_hints_go_to_those_who_know_them():
    hints = {"service_tier": "flex", "store": True, "prompt_cache_key": "k", "reasoning_effort": "low"}
    query = Query((USER,), extra={**hints, "parallel_tool_calls": False})
    assert sent(query, PLAIN).keys() == {"messages", "parallel_tool_calls"}
    assert sent(query, UPSTREAM).items() >= hints.items()


def test_what_changes_the_answer_is_never_left_out():
    assert sent(Query((USER,), extra={"top_k": 5}), PLAIN)["top_k"] == 5


def test_unknown_fields_go_where_they_may():
    query = Query((USER,), extra={PASSED: {"typical_p": 1}, "top_k": 5})
    assert sent(query, PLAIN).keys() == {"messages", "top_k"}
    assert sent(query, Capabilities(unknown=True)) == {
        "messages": [USER.to_openai()],
        "typical_p": 1,
        "top_k": 5,
    }


def test_who_asks_goes_to_those_who_are_told():
    query = Query((USER,), user="u", safety_identifier="s", metadata={"a": "b"})
    assert sent(query, PLAIN) == {"messages": [USER.to_openai()], "user": "u"}
    assert sent(query, UPSTREAM)["safety_identifier"] == "s"
    assert "metadata" not in sent(query, UPSTREAM), "by config alone"
    assert sent(query, Capabilities(parameters=frozenset(("metadata",))))["metadata"] == {"a": "b"}


ECHO = {"reasoning_content": "hm", "tool_calls": [{**CALL, "extra_content": {"x": 1}}], "cache_control": CACHE}


def test_what_an_upstream_gave_goes_back_to_it_alone():
    query = Query((USER, Message("assistant", "", ECHO)), echoes=True)
    plain = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert sent(query, PLAIN)["messages"][1] == plain
    assert sent(query, UPSTREAM)["messages"][1] == plain, "nothing to mark: it has no text"
    assert sent(query, Capabilities(echoes=True))["messages"][1] == {
        **plain,
        "reasoning_content": "hm",
        "tool_calls": ECHO["tool_calls"],
    }
    assert query.messages[1].extra == ECHO


def test_a_mark_of_what_to_cache_is_on_the_last_text():
    tool = {"type": "function", "function": {"name": "f"}}
    marked = Message("system", "s", {"cache_control": CACHE})
    query = Query((marked, USER), tools=({**tool, "cache_control": CACHE},), echoes=True)
    assert sent(query, UPSTREAM) == {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": CACHE}]},
            USER.to_openai(),
        ],
        "tools": [{**tool, "cache_control": CACHE}],
    }
    assert sent(query, PLAIN) == {"messages": [{"role": "system", "content": "s"}, USER.to_openai()], "tools": [tool]}
