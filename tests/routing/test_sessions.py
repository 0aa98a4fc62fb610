"""Conversations that stay with their pool: by their content or by name, in one Gateway's memory and without it."""

import pytest

from serve_app.config.strategies import RoutingConfig
from serve_app.errors import RequestError
from serve_app.images import Image
from serve_app.routing.sessions import Sessions, loop_start
from serve_app.types import Decision, Message, Query

TOOLS = ({"type": "function", "function": {"name": "add"}},)
ASK, CALLS = Message("user", "add"), Message("assistant", "", {"tool_calls": [{"id": "c"}]})
RESULT, SAYS = Message("tool", "3", {"tool_call_id": "c"}), Message("assistant", "3")
NAMED = [(b"x-session-id", b"s1")]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def query(*messages, tools=TOOLS, **more):
    return Query(tuple(messages), tools=tools, **more)


def decision(pool="large", strategy="route"):
    return Decision("d", strategy, pool, "m", "r")


def sessions(clock=None, **routing):
    return Sessions(RoutingConfig(**routing), clock or Clock())


def ask(kept, *messages, pool=None, headers=(), model="jethro", **more):
    """The session of a request; with `pool`, that pool then answers."""
    found, thread = kept.find(query(*messages, **more), model, headers)
    if pool is not None:
        kept.keep(thread, found, decision(pool))
    return found.session


@pytest.mark.parametrize(
    ("messages", "start"),
    [
        ([ASK], 1),
        ([ASK, SAYS, ASK], 3),
        ([ASK, CALLS, RESULT], 1),
        ([ASK, CALLS, RESULT, CALLS, RESULT, RESULT], 1),
        ([ASK, SAYS, ASK, CALLS, RESULT], 3),
        ([ASK, CALLS, RESULT, Message("user", "a reminder")], 1),
        ([ASK, CALLS, RESULT, SAYS, ASK], 5),
        ([ASK, CALLS, ASK], 3),
        ([ASK, SAYS, RESULT], 3),
        ([RESULT], 1),
        ([CALLS, RESULT], 0),
    ],
)
def test_where_a_tool_loop_begins(messages, start):
    assert loop_start(messages) == start


def test_a_tool_loop_stays_with_the_pool_that_began_it():
    kept = sessions()
    assert ask(kept, ASK, pool="large") is None
    turns = [ASK]
    for _ in range(4):
        turns += [CALLS, RESULT]
        session = ask(kept, *turns, pool="large")
        assert (session.pool, session.stays, session.start) == ("large", True, 1)
    assert ask(kept, *turns, SAYS, ASK).stays is False, "the loop is over, and its pool has read most of it"


def test_the_pool_that_answered_last_has_it():
    kept = sessions()
    ask(kept, ASK, pool="large")
    ask(kept, ASK, CALLS, RESULT, pool="small")
    assert ask(kept, ASK, CALLS, RESULT, CALLS, RESULT).pool == "small"


def test_a_gateway_that_remembers_nothing_scores_what_came_before_the_loop():
    found, _ = sessions().find(query(ASK, CALLS, RESULT), "jethro", ())
    assert found.session.pool is None and found.session.stays
    assert found.scored.messages == (ASK,) and found.scored.session is None
    plain = query(ASK)
    assert plain.scored is plain


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"model": "jethro-cascade"},
        {"first": Message("user", "subtract")},
        {"first": Message.of("user", ["add", Image("https://x.example/1.png")])},
    ],
)
def test_conversations_are_apart_by_tenant_model_and_content(other):
    kept, first = sessions(), other.pop("first", ASK)
    ask(kept, ASK, pool="large", tenant="a")
    assert ask(kept, first, CALLS, RESULT, **{"tenant": "a", **other}).pool is None
    assert ask(kept, ASK, CALLS, RESULT, tenant="a").pool == "large"


def test_off_and_plain_requests_have_no_session_and_cost_no_memory():
    kept = sessions(stickiness="off")
    assert kept.find(query(ASK, CALLS, RESULT), "jethro", NAMED)[1] is None
    kept = sessions()
    assert kept.find(query(ASK, tools=()), "jethro", ())[1] is None
    assert kept.find(Query((ASK,), endpoint="completions"), "jethro", NAMED)[1] is None
    assert len(kept) == 0


def test_a_whole_conversation_stays_if_the_config_says_so():
    kept = sessions(stickiness="session")
    assert ask(kept, ASK, pool="small", tools=()) is None
    session = ask(kept, ASK, SAYS, Message("user", "prove it"), tools=())
    assert (session.pool, session.stays, session.start) == ("small", True, 1)


def test_a_named_session_needs_no_common_content():
    kept = sessions(stickiness="session")
    ask(kept, ASK, pool="small", headers=NAMED)
    assert ask(kept, Message("user", "x"), SAYS, ASK, headers=NAMED).pool == "small"
    assert ask(kept, Message("user", "x"), SAYS, ASK, headers=[(b"x-session-id", b"s2")]).pool is None
    assert ask(kept, Message("user", "x"), SAYS, ASK, headers=NAMED, tenant="b").pool is None


@pytest.mark.parametrize("value", [b"", b"x" * 257])
def test_a_name_is_bounded(value):
    with pytest.raises(RequestError) as caught:
        sessions().find(query(ASK), "jethro", [(b"x-session-id", value)])
    assert caught.value.param == "x-session-id"


def test_memory_is_bounded_in_number_and_time():
    clock = Clock()
    kept = sessions(clock, sessions=2, session_ttl_s=10)
    for text in "abc":
        ask(kept, Message("user", text), pool="large")
    assert len(kept) == 2
    assert ask(kept, Message("user", "a"), CALLS, RESULT).pool is None
    assert ask(kept, Message("user", "c"), CALLS, RESULT).pool == "large"
    clock.now = 10.0
    assert ask(kept, Message("user", "c"), CALLS, RESULT).pool is None
    ask(kept, Message("user", "d"), pool="large")
    assert len(kept) == 1, "what is over goes with the next"


def test_nothing_is_kept_of_a_local_request_but_under_the_name_that_it_gives():
    kept = sessions()
    ask(kept, ASK, pool="large", privacy="local")
    assert len(kept) == 0
    ask(kept, ASK, pool="large", privacy="local", headers=NAMED)
    assert len(kept) == 1


def test_requests_that_name_a_pool_leave_no_trace():
    kept = sessions()
    found, thread = kept.find(query(ASK), "lab-large", ())
    kept.keep(thread, found, decision(strategy="direct"))
    assert len(kept) == 0


def test_how_much_of_a_prompt_the_last_pool_has_read():
    kept = sessions()
    first, last = Message("user", "x" * 60), Message("user", "y" * 39)
    ask(kept, first, pool="large")
    session = ask(kept, first, Message("assistant", "z"), last)
    assert (session.pool, session.stays) == ("large", False) and session.shared == pytest.approx(0.6)
