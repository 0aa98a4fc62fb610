"""Decisions warn where an embedded model answers what is none of its tasks, in every way to ask, and nowhere else."""

import json

import pytest

from serve_app.config import load
from serve_app.gateway.preview import decide
from serve_app.gateway.scope import WARNING, ScopeNotes
from serve_app.types import Decision, Message, Query
from tests.api.fakes import services

ENGLISH, LAB = "Who wrote Hamlet?", "what is 40 + 2?"


def query(*turns: str) -> Query:
    roles = ("user", "assistant")
    return Query(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


def decision(pool: str = "small", warning: str | None = None) -> Decision:
    return Decision("d", "route", pool, f"m-{pool}", "because", warning=warning)


@pytest.fixture
def notes() -> ScopeNotes:
    return ScopeNotes.from_config(load("lab", env={}))


def test_english_is_warned_of_and_a_task_is_not(notes):
    assert notes.noted("jethro", query(ENGLISH), decision()).warning == WARNING
    asked = decision()
    assert notes.noted("jethro", query(LAB), asked) is asked
    assert "CONFIG=assistant" in WARNING


def test_the_last_user_turn_counts(notes):
    assert notes.noted("jethro", query(ENGLISH, "i only know small tasks", LAB), decision()).warning is None
    assert notes.noted("jethro", query(LAB, "42", ENGLISH), decision()).warning == WARNING
    system = Query((Message("system", "You are a poet. Write about love and autumn."), Message("user", LAB)))
    assert notes.noted("jethro", system, decision()).warning is None


def test_a_warning_that_is_there_stays(notes):
    assert notes.noted("jethro", query(ENGLISH), decision(warning="a guess")).warning == f"a guess; {WARNING}"


def test_a_stream_labels_texts_of_any_kind(notes):
    assert notes.noted("jethro-stream-reviews", query(ENGLISH), decision()).warning is None


def test_only_pools_of_embedded_models_are_warned_of():
    tree = load("lab", env={}).model_dump(mode="json")
    tree["pools"]["large"] = {"model": "big", "engine": {"kind": "openai", "urls": ["http://h"]}}
    notes = ScopeNotes.from_config(type(load("lab", env={})).model_validate(tree))
    assert notes.noted("jethro", query(ENGLISH), decision("small")).warning == WARNING
    assert notes.noted("jethro", query(ENGLISH), decision("large")).warning is None
    own = ScopeNotes.from_config(load("remote", env={}))
    assert own.scope is None and own.noted("jethro", query(ENGLISH), decision()).warning is None


def test_a_local_decision_says_it_too():
    assert decide(load("lab", env={}), "jethro", ENGLISH)["warning"] == WARNING
    assert decide(load("lab", env={}), "jethro", LAB)["warning"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_header_and_body_of_an_answer_say_it(client, notes, stream):
    parts = services(scope=notes)
    for text, said in ((ENGLISH, WARNING), (LAB, None)):
        body = {"model": "jethro", "messages": [{"role": "user", "content": text}], "stream": stream}
        async with client(parts) as http:
            answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        assert answer.headers.get("x-jethro-warning") == said
        last = answer.text.strip().split("\n\n")[-2].removeprefix("data: ") if stream else answer.text
        assert json.loads(last)["jethro"]["warning"] == said


async def test_a_completion_is_read_as_one_turn(client, notes):
    async with client(services(scope=notes)) as http:
        answer = await http.post("/v1/completions", json={"model": "jethro", "prompt": ENGLISH})
    assert answer.headers["x-jethro-warning"] == WARNING


async def test_a_decision_without_an_answer_says_it(client, notes):
    async with client(services(scope=notes)) as http:
        asked = {"model": "jethro", "messages": [{"role": "user", "content": ENGLISH}]}
        assert (await http.post("/v1/route", json=asked)).json()["warning"] == WARNING
