"""Redaction before a pool: no value reaches it, and the answer has the values again, however it is cut."""

import itertools
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import PlacementForbidden
from serve_app.guards.personal.detector import PersonalData
from serve_app.placement.pool import PlacedPool
from serve_app.placement.redaction import Redactor, Restoring
from serve_app.types import Chunk, Message, Query, Sampling, Usage
from serve_app.wire.answers import AnswerReader
from serve_app.wire.encoding import StreamEncoder
from serve_app.wire.frames import Answer, Call, Frame
from tests.api.fakes import FakePool
from tests.guards.fakes import CALL

PERSONAL = PersonalData(PersonalDataConfig(), {})
VALUES = {"[EMAIL_1]": 'a"b@x.io', "[EMAIL_12]": "b@x.io", "[CARD_1]": "4111"}


@pytest.mark.parametrize("text", ["to [EMAIL_12]!", "[EMAIL_1][CARD_1]", "[[EMAIL_1] [EMAIL_", "a [b] [C", "[EMAIL_1"])
def test_placeholders_are_restored_for_every_way_to_cut_them(text: str) -> None:
    whole = Restoring(VALUES)
    expected = whole.feed(text) + whole.end()
    assert expected == text.replace("[EMAIL_12]", "b@x.io").replace("[EMAIL_1]", 'a"b@x.io').replace("[CARD_1]", "4111")
    places = range(1, len(text))
    for way in itertools.chain.from_iterable(itertools.combinations(places, k) for k in range(min(4, len(text)))):
        restoring = Restoring(VALUES)
        pieces = [text[a:b] for a, b in itertools.pairwise((0, *way, len(text)))]
        assert "".join([*map(restoring.feed, pieces), restoring.end()]) == expected


def test_values_inside_json_are_escaped() -> None:
    restoring = Restoring(VALUES, escaped=True)
    text = restoring.feed('{"to": "[EMA') + restoring.feed('IL_1]"}') + restoring.end()
    assert json.loads(text) == {"to": 'a"b@x.io'}


class Parrot(FakePool):
    """Repeats the last message a character a frame, as text and as a tool call's arguments."""

    def _text(self, query: Query) -> str:
        return query.messages[-1].content

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame]:
        self._note(query, call)
        encoder = StreamEncoder(query, model=self.model, answer_id=call.id, created=1)
        text, arguments = self._text(query), json.dumps({"text": self._text(query)})
        chunks = [Chunk(text=character) for character in text]
        head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "say", "arguments": ""}}
        chunks.append(Chunk(tool_calls=(head,)))
        chunks += [Chunk(tool_calls=({"index": 0, "function": {"arguments": c}},)) for c in arguments]
        chunks.append(Chunk(finish_reason="tool_calls", usage=Usage(3, 5)))
        for chunk in chunks:
            yield Frame(encoder.encode(chunk))
        yield Frame(encoder.usage(Usage(3, 5)))

    async def complete(self, query: Query, call: Call) -> Answer:
        self._note(query, call)
        body: dict[str, Any] = {"role": "assistant", "content": self._text(query)}
        body["tool_calls"] = [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "say", "arguments": json.dumps({"text": body["content"]})},
            }
        ]
        choice = {"index": 0, "message": body, "finish_reason": "tool_calls"}
        return Answer(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}).encode())


TEXT = "write to jane.doe@example.com and bob@example.com, then jane.doe@example.com; card 4111 1111 1111 1111"


class Counter(Parrot):
    async def count_tokens(self, query: Query, call: Call) -> int | None:
        self._note(query, call)
        return 7


async def test_tokens_are_counted_of_what_the_pool_would_see() -> None:
    pool, query = Counter(), Query((Message("user", TEXT),))
    assert await PlacedPool(pool, redactor=Redactor(PERSONAL)).count_tokens(query, CALL) == 7
    assert "jane" not in repr(pool.queries) and "4111" not in repr(pool.queries)
    assert await PlacedPool(Parrot()).count_tokens(query, CALL) is None
    with pytest.raises(PlacementForbidden):
        await PlacedPool(pool).count_tokens(Query(query.messages, reach=frozenset()), CALL)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_pool_sees_placeholders_and_the_caller_the_values(stream: bool) -> None:
    pool = Parrot()
    placed = PlacedPool(pool, redactor=Redactor(PERSONAL))
    query = Query((Message("user", "I am jane.doe@example.com"), Message("user", TEXT)), user="jane.doe@example.com")
    reader = AnswerReader(query)
    if stream:
        async for frame in placed.stream(query, CALL):
            reader.frame(frame)
    else:
        reader.answer(await placed.complete(query, CALL))
    assert reader.finished and reader.choices[0].text == TEXT
    assert json.loads(reader.choices[0].calls[0]["arguments"]) == {"text": TEXT}
    (sent,) = pool.queries
    seen = repr(sent)
    assert "jane" not in seen and "bob@" not in seen and "4111" not in seen and sent.user is None
    assert sent.messages[0].role == "system" and "[EMAIL_1]" in sent.messages[0].content
    assert sent.messages[1].content == "I am [EMAIL_1]"
    assert sent.messages[2].content == "write to [EMAIL_1] and [EMAIL_2], then [EMAIL_1]; card [CARD_1]"


async def test_tool_calls_schemas_and_stops_are_redacted_too() -> None:
    pool = FakePool()
    arguments = json.dumps({"to": "jane.doe@example.com", "card": 4111111111111111}, ensure_ascii=True)
    calls = [{"id": "c1", "type": "function", "function": {"name": "mail", "arguments": arguments}}]
    query = Query(
        (
            Message("user", "x", {"name": "Jane"}),
            Message("assistant", "", {"tool_calls": calls}),
            Message("tool", "sent to jane.doe@example.com", {"tool_call_id": "c1", "name": "mail"}),
        ),
        Sampling(stop=("bob@example.com",)),
        response_format={"type": "json_schema", "json_schema": {"schema": {"enum": ["jane.doe@example.com"]}}},
    )
    await PlacedPool(pool, redactor=Redactor(PERSONAL, instruct=False)).complete(query, CALL)
    (sent,) = pool.queries
    assert "jane" not in repr(sent).lower() and "bob@" not in repr(sent) and "41111" not in repr(sent)
    assert sent.messages[2].extra == {"tool_call_id": "c1", "name": "mail"}
    found = json.loads(sent.messages[1].extra["tool_calls"][0]["function"]["arguments"])
    assert found["to"] == sent.messages[2].content.removeprefix("sent to ")


async def test_a_placeholder_that_the_text_has_already_is_not_used() -> None:
    sent, values = await Redactor(PERSONAL).redacted(Query((Message("user", "[EMAIL_1] is a@b.io"),)), CALL)
    assert list(values) == ["[EMAIL_2]"] and sent.messages[-1].content == "[EMAIL_1] is [EMAIL_2]"


async def test_nothing_to_redact_passes_as_it_is() -> None:
    pool = FakePool()
    query = Query((Message("user", "what is 40 + 2?"),))
    await PlacedPool(pool, redactor=Redactor(PERSONAL)).complete(query, CALL)
    assert pool.queries[0].messages == query.messages


@pytest.mark.parametrize(("privacy", "tenant"), [("local", "acme"), ("private", "acme"), ("any", "acme")])
async def test_prompts_share_a_prefix_cache_only_where_they_may(privacy: Any, tenant: str) -> None:
    pool = FakePool()
    placed = PlacedPool(pool, salts=True)
    query = Query((Message("user", "x"),), privacy=privacy, tenant=tenant)
    for each in (query, query, replace(query, tenant="zeta")):
        await placed.complete(each, CALL)
    salts = [each.extra.get("cache_salt") for each in pool.queries]
    assert {"local": len(set(salts)) == 3, "private": salts[0] == salts[1] != salts[2], "any": salts == [None] * 3}[
        privacy
    ]
