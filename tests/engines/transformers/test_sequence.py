import asyncio

import pytest

from serve_app.engines.transformers.sequence import Likely, Mailbox
from serve_app.errors import UpstreamError
from serve_app.types import Chunk, TokenLogprob, Usage
from tests.engines.transformers.sequences import EOS, request


def say(asked, *tokens, likely=None):
    (sequence,) = asked.sequences
    return [sequence.accept(t, likely) for t in tokens]


def test_tokens_become_chunks_and_the_end_of_text_is_silent():
    first, last = say(request(), 8, EOS)
    assert first == Chunk(0, "<8>", (8,))
    assert last == Chunk(0, "", (EOS,), finish_reason="stop", usage=Usage(3, 2))


def test_max_tokens_ends_with_length():
    *_, last = say(request(max_tokens=2), 8, 9)
    assert (last.text, last.finish_reason) == ("<9>", "length")


def test_the_room_in_the_context_ends_with_length():
    (last,) = say(request(room=1), 8)
    assert last.finish_reason == "length"


def test_end_of_text_at_the_last_token_is_a_stop():
    assert say(request(max_tokens=1), EOS)[-1].finish_reason == "stop"


def test_text_kept_back_for_a_stop_string_comes_at_the_end():
    first, second, last = say(request(stop=("<8><9><1>",), max_tokens=3), 8, 9, 7)
    assert (first, second) == (None, None)
    assert last.text == "<8><9><7>"
    assert last.token_ids == (8, 9, 7)


def test_a_stop_string_wins_over_length():
    last = say(request(stop=("9",), max_tokens=2), 8, 9)[-1]
    assert (last.text, last.finish_reason) == ("<", "stop")


def test_a_stop_string_in_what_the_decoder_kept_back():
    half = {(1,): "�", (1, 1): "é!"}
    asked = request(prompt=(), read=lambda ids: half.get(tuple(ids), ""), stop=("!",), max_tokens=2)
    first, last = say(asked, 1, 1)
    assert first is None
    assert (last.text, last.finish_reason) == ("é", "stop")


def test_half_a_character_at_the_end_is_flushed():
    asked = request(prompt=(), read=lambda ids: "�" if ids else "", max_tokens=1)
    assert say(asked, 1)[-1].text == "�"


def test_usage_comes_with_the_last_choice_and_counts_all():
    asked = request(n=2)
    first, second = asked.sequences
    assert first.accept(EOS, None).usage is None
    second.accept(8, None)
    assert second.accept(EOS, None).usage == Usage(3, 3)


def test_logprobs_wait_for_their_text():
    likely = Likely(-0.5, ((8, -0.5), (9, -1.0)))
    asked = request(stop=("<8><0>",), max_tokens=9)
    first, second = say(asked, 8, 9, likely=likely)
    assert first is None
    own = TokenLogprob("<8>", -0.5, (("<8>", -0.5), ("<9>", -1.0)))
    assert second.logprobs == (own, TokenLogprob("<9>", -0.5, own.top))


def test_counts_are_kept_for_penalties_only():
    assert request().sequences[0].counts is None
    asked = request(presence_penalty=0.5)
    say(asked, 8, 9, 8)
    assert asked.sequences[0].counts == {8: 2, 9: 1}


def test_each_choice_has_its_own_draws_and_a_seed_fixes_them():
    first, again = request(n=2, seed=3), request(n=2, seed=3)
    draws = [[s.rng.random() for s in r.sequences] for r in (first, again)]
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
    assert request(seed=4).sequences[0].rng.random() != draws[0][0]


def test_the_end_that_a_sequence_may_grow_to():
    assert request(max_tokens=10).sequences[0].end == 13
    assert request(room=4, max_tokens=10).sequences[0].end == 7


async def test_a_mailbox_keeps_order_and_raises_errors():
    box = Mailbox()
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    for item in (Chunk(0, "a"), Chunk(0, "b"), UpstreamError("broken")):
        box.put(item)
    assert [(await waiting).text, (await box.get()).text] == ["a", "b"]
    with pytest.raises(UpstreamError):
        await box.get()


async def test_a_mailbox_survives_a_consumer_that_gave_up():
    box = Mailbox()
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    waiting.cancel()
    box.put(Chunk(0, "a"))
    await asyncio.gather(waiting, return_exceptions=True)
    box.put(Chunk(0, "b"))
    assert (await box.get()).text == "a"
