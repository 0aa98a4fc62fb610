"""What a guard stops or redacts leaves in no piece of a stream, however the answer is cut into pieces."""

import asyncio
import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engines.local_pool import LocalPool
from serve_app.guards.chain import Guards
from serve_app.strategy import Context
from serve_app.types import Capabilities
from serve_app.wire.frames import Answer
from tests.cascade.fakes import engine
from tests.guards.fakes import CALL, QUERY, events, guards, leaving

WORDS = {"name": "words", "kind": "patterns", "patterns": [{"category": "code", "words": ["blue bird", "owl"]}]}
PERSONAL = {"name": "pii", "kind": "personal_data", "action": "redact", "texts": ["output"]}
SECRETS = {"name": "secrets", "kind": "secrets"}


def cuts(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    places = range(1, len(text))
    ways = itertools.chain.from_iterable(itertools.combinations(places, k) for k in range(len(text)))
    return [[text[a:b] for a, b in itertools.pairwise((0, *way, len(text)))] for way in ways]


def randomly(text: str, rng: random.Random) -> list[str]:
    way = sorted(rng.sample(range(1, len(text)), rng.randint(0, min(40, len(text) - 1))))
    return [text[a:b] for a, b in itertools.pairwise((0, *way, len(text)))]


@pytest.mark.parametrize(
    ("text", "before"), [("an owl sat", "an "), ("a blue bird", "a "), ("owls, owl", "owls, "), ("x Blue Bird y", "x ")]
)
async def test_blocked_text_is_in_no_piece_for_every_way_to_cut_it(text: str, before: str) -> None:
    made = guards(WORDS)
    for pieces in cuts(text):
        texts, finish, found = await leaving(made, pieces)
        assert ("".join(texts), finish) == (before, "content_filter"), pieces
        assert found == {"words.code": 1}


async def test_what_is_harmless_passes_whole_for_every_way_to_cut_it() -> None:
    made = guards(WORDS, PERSONAL, SECRETS)
    for pieces in cuts("blue birds @"):
        texts, finish, found = await leaving(made, pieces)
        assert ("".join(texts), finish, found) == ("blue birds @", "stop", {})


async def test_personal_data_is_replaced_for_every_way_to_cut_it() -> None:
    made = guards(PERSONAL)
    for pieces in cuts("to a@b.io,ok"):
        texts, finish, found = await leaving(made, pieces)
        assert ("".join(texts), finish, found) == ("to [email],ok", "stop", {"pii.email": 1}), pieces


LONG = (
    "Dear team, the quick brown fox is at jane.doe+x@mail.example.co.uk or +44 20 7946 0958, and pays with "
    "4111 1111 1111 1111 or DE89 3704 0044 0532 0130 00 since 12.03.2024, order 1234567, 3.14 and 10.0.0.17. Born on "
    "12 March 1984, my key is sk-proj-AbCdEfGhIjKlMnOpQrSt1234 and password: hunter2! or so; in all 100,000 owls. " * 2
)


async def test_a_long_text_is_the_same_however_it_is_cut() -> None:
    made, rng = guards(PERSONAL, {**SECRETS, "action": "warn"}), random.Random(3)
    whole, finish, found = await leaving(made, [LONG])
    assert finish == "stop" and found["pii.card"] == 2 and found["secrets.api_key"] == 2
    for secret in ("jane", "7946", "4111", "3704 0044", "10.0.0.17", "March 1984"):
        assert secret not in "".join(whole)
    for _ in range(150):
        assert "".join((await leaving(made, randomly(LONG, rng)))[0]) == "".join(whole)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["owl", " ", "a@b.io", "4111", " 1111", "-", "x", "blue ", "bird", "+1 415 555 2671", "\n", "é"]
        ),
        min_size=1,
        max_size=14,
    ),
    st.randoms(use_true_random=False),
)
def test_any_text_is_the_same_however_it_is_cut(words: list[str], rng: random.Random) -> None:
    text = "".join(words)
    made = guards(WORDS, PERSONAL, SECRETS)

    async def check() -> None:
        whole = await leaving(made, [text])
        for _ in range(5):
            pieces = randomly(text, rng) if len(text) > 1 else [text]
            texts, finish, _ = await leaving(made, pieces)
            assert ("".join(texts), finish) == ("".join(whole[0]), whole[1])
            if finish == "content_filter":
                assert re.search(r"(?i)(?<!\w)(?:owl|blue\s{1,3}bird)(?!\w)", "".join(texts)) is None

    asyncio.run(check())


async def test_prose_flows_while_guards_watch() -> None:
    """Only what may still become a finding waits: with an e-mail guard, the word that is being written."""
    made = guards({**PERSONAL, "categories": ["email"]})
    texts, _, _ = await leaving(made, ["One ", "two ", "three ", "four."])
    assert texts[:3] == ["One ", "two ", "three "]


async def test_a_private_key_cannot_be_replaced_in_a_stream_and_stops_it() -> None:
    made = guards({**SECRETS, "action": "redact", "texts": ["output"]})
    text = "here: " + "-" * 5 + "BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY----- done"
    texts, finish, _ = await leaving(made, list(text))
    assert ("".join(texts), finish) == ("here: ", "content_filter")


@pytest.mark.parametrize("action", ["block", "escalate"])
async def test_a_whole_answer_that_is_stopped_has_no_content_and_a_refusal(action: str) -> None:
    made = guards({**WORDS, "action": action}, message="Not this.")
    async for event in _guarded(made, ["an owl"]):
        if isinstance(event, Answer):
            (choice,) = event.parsed["choices"]
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "Not this."}
    assert choice["finish_reason"] == "content_filter"


def _guarded(made: Guards, pieces: list[str]):  # type: ignore[no-untyped-def]
    from serve_app.guards.answers import guarded

    return guarded(events(pieces, False), made, QUERY, Context(CALL, False), lambda found: None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("says", "finish"), [("unsafe violence", "content_filter"), ("safe", "stop")])
async def test_a_classifier_reads_the_whole_before_a_word_leaves(stream: bool, says: str, finish: str) -> None:
    judge = LocalPool("judge", engine([says], "judge", capabilities=Capabilities(logprobs=False)))
    made = guards({"name": "judge", "kind": "classifier", "pool": "judge", "texts": ["output"]}, pools={"judge": judge})
    texts, ended, found = await leaving(made, ["some ", "answer"], stream)
    assert ended == finish
    assert "".join(texts) == ("some answer" if finish == "stop" else "")
    assert found == ({} if finish == "stop" else {"judge.violence": 1})
