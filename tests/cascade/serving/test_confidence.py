import math
from dataclasses import replace

import pytest

from serve_app.cascade.base import Level, Needs
from serve_app.cascade.serving.confidence import confidence_in, is_slow
from serve_app.cascade.serving.stages import LevelConfidence, Stage, StageResult
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.types import Chunk
from serve_app.wire.answers import AnswerReader, text_of
from tests.cascade.fakes import CALL, Doubt, Same, Seen, pool, query

CALLED = Chunk(0, tool_calls=({"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a":'}},))
MORE = Chunk(0, tool_calls=({"index": 0, "function": {"arguments": "1}"}},), finish_reason="tool_calls")
REQUEST = replace(query(), tools=({"type": "function", "function": {"name": "add"}},))


def reading(*chunks: Chunk) -> AnswerReader:
    found = AnswerReader(REQUEST)
    from serve_app.wire.answers import ChoiceText

    for chunk in chunks:
        found.choices.setdefault(chunk.index, ChoiceText()).add(chunk)
    return found


def result_of(signal: object, said: AnswerReader, threshold: float = 0.5) -> StageResult:
    level = Level("small", signal, Same(), threshold)  # type: ignore[arg-type]
    result = StageResult(Stage(level, pool(""), checked=True), REQUEST, CALL)
    result.reading = said
    return result


def confidence(signal: object, said: AnswerReader, threshold: float = 0.5) -> LevelConfidence:
    return confidence_in(result_of(signal, said, threshold), None)


def test_a_tool_call_is_judged_as_its_text() -> None:
    signal = Seen(sure=0.9)
    found = confidence(signal, reading(CALLED, MORE))
    assert found.accepted and signal.shown[0].text == 'add({"a":1})'


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [("rm", "{}", "no tool"), ("add", "{", "no JSON object"), ("add", "[1]", "no JSON object")],
)
def test_a_call_that_cannot_be_made_is_never_taken(name: str, arguments: str, why: str) -> None:
    call = {"index": 0, "function": {"name": name, "arguments": arguments}}
    found = confidence(Seen(), reading(Chunk(0, tool_calls=(call,), finish_reason="tool_calls")))
    assert not found.accepted and why in str(found)


def test_a_call_that_is_not_finished_may_still_become_one() -> None:
    assert confidence(Seen(), reading(CALLED)).accepted


def test_the_least_likely_choice_counts() -> None:
    said = reading(Chunk(0, "yes", finish_reason="stop"), Chunk(1, "what?", finish_reason="stop"))
    found = confidence(Doubt(), said)
    assert (found.value, found.probability, found.accepted) == (0.2, 0.2, False)


def test_each_choice_has_its_own_verdicts() -> None:
    signal = Seen()
    said = reading(Chunk(0, "a", finish_reason="stop"), Chunk(1, "b", finish_reason="stop"))
    result = result_of(signal, said)
    result.samples, result.verdicts = ("s",), {1: (1.0,)}
    confidence_in(result, 0.4)
    assert [(j.text, j.verdicts, j.samples, j.prior) for j in signal.shown] == [
        ("a", (), ("s",), 0.4),
        ("b", (1.0,), ("s",), 0.4),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_probability_is_never_taken(value: float) -> None:
    found = confidence(Seen(sure=value), reading(Chunk(0, "a")), threshold=0.0)
    assert found.probability == 0.0 and not (math.isnan(value) and found.accepted and found.threshold > 0)


def test_words_and_calls_are_one_text() -> None:
    said = reading(Chunk(0, "let me see"), CALLED, MORE).choices[0]
    assert text_of(said) == 'let me see\nadd({"a":1})'


def test_signals_that_encode_text_are_slow() -> None:
    import numpy as np

    assert is_slow(AnswerScorer("minilm", "x", np.zeros(3), 0.0))
    assert not is_slow(Seen(needs=Needs()))
