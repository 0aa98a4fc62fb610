import pytest

from serve_app.learning.features import NUMERIC, read
from serve_app.types import Message, Query


def reading(text: str) -> dict[str, float]:
    return dict(zip(NUMERIC, read(Query((Message("user", text),))).numeric, strict=True))


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("what is 12 + 30?", "add"),
        ("12-3", "subtract"),
        ("what is the product of 3 and 4", "multiply"),
        ("(4+8)*6", "add+multiply"),
        ("sort 9 3 5 1", "sort"),
        ("reverse stone", "reverse"),
        ("what is the largest of 3 9 4?", "compare"),
        ("how many e in cheese?", "count"),
        ("write a Python function that parses JSON", "code+extract"),
        ("translate this to French", "translate"),
        ("a well-known fact - or not", "other"),
        ("", "other"),
        ("12345", "numbers"),
        ("hello", "greet"),
    ],
)
def test_task_guess(text: str, task: str) -> None:
    guess = read(Query((Message("user", text),))).task
    assert set(task.split("+")) <= set(guess.split("+")), guess


def test_politeness_does_not_change_the_task() -> None:
    guesses = [
        read(Query((Message("user", t),))).task for t in ("reverse stone", "hello! please reverse stone, thanks")
    ]
    assert guesses[0] == guesses[1]


def test_operators_count_only_among_numbers() -> None:
    assert read(Query((Message("user", "(4+8)*6"),))).operators == "(+)*"
    assert read(Query((Message("user", "well-known"),))).operators == ""


def test_numbers_rise_with_what_they_count() -> None:
    short, long = reading("what is 1 + 2?"), reading("WHAT is 123456 + 2 + 33 + 4?\n```x```, (y)")
    for name in ("chars", "words", "lines", "numbers", "digits", "longest_number", "operators", "brackets", "commas"):
        assert long[name] > short[name], name
    assert long["fences"] > 0 and long["upper_share"] > 0 and long["questions"] == short["questions"]
    assert reading("日本語")["foreign_share"] == 1.0


def test_the_last_user_turn_is_read_and_the_rest_counted() -> None:
    turns = (Message("system", "be kind"), Message("user", "reverse stone"), Message("assistant", "enots"))
    asked = read(Query((*turns, Message("user", "what is 2 + 2?"))))
    alone = read(Query((Message("user", "what is 2 + 2?"),)))
    assert asked.task == alone.task and asked.tokens == alone.tokens
    numeric = dict(zip(NUMERIC, asked.numeric, strict=True))
    assert numeric["turns"] > 1 and numeric["history_chars"] > 0 and numeric["system_chars"] > 0


def test_a_long_text_is_read_at_both_ends_in_bounded_work() -> None:
    asked = read(Query((Message("user", "summarize: " + "lorem " * 50_000 + " translate"),)))
    assert "summarise" in asked.task and "translate" in asked.task
    assert len(asked.tokens) < 2_100
