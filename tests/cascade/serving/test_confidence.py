""""""

import math
from dataclasses import replace

import pytest

from serve_app.cascade.base import Level, Needs
from serve_app.cascade.serving.confidence import Further, is_slow, judge, text_of
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.types import Chunk
from serve_app.wire.answers import Reading
from tests.cascade.fakes import Doubt, Same, Seen, query

CALLED = Chunk(0, tool_calls=({"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a":'}},))
MORE = Chunk(0, tool_calls=({"index": 0, "function": {"arguments": "1}"}},), finish_reason="tool_calls")
ASKED = replace(query(), tools=({"type": "function", "function": {"name": "add"}},))


def reading(*chunks: Chunk) -> Reading:
    found = Reading(ASKED)
    from serve_app.wire.answers import Said

    for chunk in chunks:
        found.choices.setdefault(chunk.index, Said()).add(chunk)
    return found


def level(signal: object, threshold: float = 0.5) -> Level:
    return Level("small", signal, Same(), threshold)  # type: ignore[arg-type]


def test_a_tool_call_is_judged_as_its_text() -> None:
    signal = Seen(sure=0.9)
    found = judge(level(signal), ASKED, reading(CALLED, MORE), Further())
    assert found.accepted and signal.shown[0].text == 'add({"a":1})'


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [("rm", "{}", "no tool"), ("add", "{", "no JSON object"), ("add", "[1]", "no JSON object")],
)
def test_a_call_that_cannot_be_made_is_never_taken(name: str, arguments: str, why: str) -> None:
    call = {"index": 0, "function": {"name": name, "arguments": arguments}}
    found = judge(level(Seen()), ASKED, reading(Chunk(0, tool_calls=(call,), finish_reason="tool_calls")), Further())
    assert not found.accepted and why in str(found)


def test_a_call_that_is_not_finished_may_still_become_one() -> None:
    assert judge(level(Seen()), ASKED, reading(CALLED), Further()).accepted


def test_the_least_likely_choice_counts() -> None:
    said = reading(Chunk(0, "yes", finish_reason="stop"), Chunk(1, "what?", finish_reason="stop"))
    found = judge(level(Doubt()), ASKED, said, Further())
    assert (found.value, found.probability, found.accepted) == (0.2, 0.2, False)


def test_each_choice_has_its_own_verdicts() -> None:
    signal = Seen()
    said = reading(Chunk(0, "a", finish_reason="stop"), Chunk(1, "b", finish_reason="stop"))
    judge(level(signal), ASKED, said, Further(("s",), {1: (1.0,)}, 0.4))
    assert [(j.text, j.verdicts, j.samples, j.prior) for j in signal.shown] == [
        ("a", (), ("s",), 0.4),
        ("b", (1.0,), ("s",), 0.4),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_probability_is_never_taken(value: float) -> None:
    found = judge(level(Seen(sure=value), threshold=0.0), ASKED, reading(Chunk(0, "a")), Further())
    assert found.probability == 0.0 and not (math.isnan(value) and found.accepted and found.threshold > 0)


def test_words_and_calls_are_one_text() -> None:
    said = reading(Chunk(0, "let me see"), CALLED, MORE).choices[0]
    assert text_of(said) == 'let me see\nadd({"a":1})'


def test_signals_that_encode_text_are_slow() -> None:
    import numpy as np

    assert is_slow(AnswerScorer("minilm", "x", np.zeros(3), 0.0))
    assert not is_slow(Seen(needs=Needs()))
