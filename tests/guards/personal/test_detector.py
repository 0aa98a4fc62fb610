"""The tiers together: texts of a query, overlaps, a model of names, and Presidio."""

import pytest

from serve_app.config.placement import PersonalDataConfig
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ConfigError, PoolUnavailable
from serve_app.guards.personal.detector import PersonalData, texts_of
from serve_app.types import Message, Query
from serve_app.unrecorded import is_unrecorded
from tests.cascade.fakes import engine, engine_of
from tests.guards.fakes import CALL, QUERY

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": '{"to": "Jos\\u00e9", "n": 4155552671}'}}
]


def test_texts_of_a_query_are_contents_and_what_calls_and_schemas_hold() -> None:
    query = Query(
        (Message("user", "one"), Message("assistant", "", {"tool_calls": CALLS}), Message("tool", "two", {})),
        response_format={"type": "json_schema", "json_schema": {"enum": ["three"]}},
    )
    assert {"one", "two", "three", "José", "4155552671"} <= set(texts_of(query))


async def test_of_overlapping_findings_one_is_left() -> None:
    personal = PersonalData(PersonalDataConfig(), {})
    text = "my phone 536-90-4399 is also a number"
    (spans,) = await personal.find([text], QUERY, CALL)
    assert [text[s.start : s.end] for s in spans] == ["536-90-4399"]
    assert PersonalData(PersonalDataConfig(categories=("email",)), {}).count([text, "a@b.io"]) == {"email": 1}


async def test_a_model_lists_names_and_only_literal_ones_count() -> None:
    says = 'Sure: {"people": ["Ada Lovelace", "Nobody Here"], "places": ["Bath"]}'
    pool = LocalPool("names", engine([says], "names"))
    personal = PersonalData(PersonalDataConfig(names_pool="names"), {"names": pool})
    text = "Ada Lovelace moved to Bath; Bathroom is no place"
    (spans,) = await personal.find([text], QUERY, CALL)
    assert [(text[s.start : s.end], s.category) for s in spans] == [("Ada Lovelace", "name"), ("Bath", "location")]
    (sent,) = engine_of(pool).queries
    assert sent.stays_unrecorded and text in sent.messages[1].content and not is_unrecorded()


@pytest.mark.parametrize("says", ["I see no names.", '{"people": ', "[]"])
async def test_a_model_that_lists_nothing_readable_leaves_nothing_unchecked(says: str) -> None:
    pool = LocalPool("names", engine([says], "names"))
    personal = PersonalData(PersonalDataConfig(names_pool="names"), {"names": pool})
    with pytest.raises(PoolUnavailable, match="no request passes unchecked"):
        await personal.find(["x"], QUERY, CALL)


async def test_a_model_of_names_that_is_late_leaves_nothing_unchecked() -> None:
    pool = LocalPool("names", engine(["{}"], "names", first_delay_s=5.0))
    personal = PersonalData(PersonalDataConfig(names_pool="names", names_timeout_s=0.05), {"names": pool})
    with pytest.raises(PoolUnavailable, match=r"within 0\.05 s"):
        await personal.find(["x"], QUERY, CALL)


async def test_presidio_adds_documents_that_have_no_pattern_of_ours() -> None:
    personal = PersonalData(PersonalDataConfig(tier="presidio"), {})
    text = "my driver license is H12234567890, write to a@b.io"
    (spans,) = await personal.find([text], QUERY, CALL)
    found = [(text[s.start : s.end], s.category) for s in spans]
    assert found == [("H12234567890", "national_id"), ("a@b.io", "email")]


def test_a_spacy_model_that_is_not_installed_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="en_no_such_model"):
        PersonalData(PersonalDataConfig(tier="presidio", spacy_model="en_no_such_model"), {})
