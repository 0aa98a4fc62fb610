"""Every task's answers, against an independent oracle; grading; the phrasings that callers rely on."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.lab.tasks import CELLS, LEVELS, TASKS, Item, grade
from serve_app.lab.tasks.arithmetic import evaluate
from serve_app.lab.tasks.letters import words_of_length
from serve_app.lab.tasks.numbers import to_roman
from tests.lab.oracle import answer_of

PROMISED = {
    "add": ("what is 12 + 30?", "42"),
    "largest": ("what is the largest of 3 9 4?", "9"),
    "sort": ("sort 9 3 5 1", "1 3 5 9"),
    "reverse": ("reverse stone", "enots"),
}


@pytest.mark.parametrize(("task", "difficulty"), CELLS)
def test_answers_are_right_by_an_independent_oracle(task: str, difficulty: int) -> None:
    rng = Random(f"{task}{difficulty}")
    for _ in range(300):
        item = TASKS[task].generate(rng, difficulty)
        assert (item.task, item.difficulty) == (task, difficulty)
        assert item.answer == answer_of(task, item.prompt), item


@pytest.mark.parametrize(("task", "difficulty"), CELLS)
def test_prompts_are_trimmed_lower_case_ascii(task: str, difficulty: int) -> None:
    rng = Random(2)
    for item in (TASKS[task].generate(rng, difficulty) for _ in range(50)):
        for text in (item.prompt, item.answer):
            assert text and text == text.strip() == text.lower() and text.isascii()


@pytest.mark.parametrize(("task", "difficulty"), CELLS)
def test_same_seed_same_item(task: str, difficulty: int) -> None:
    assert TASKS[task].generate(Random(7), difficulty) == TASKS[task].generate(Random(7), difficulty)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("difficulty", [0, 6, -1])
def test_unknown_difficulty_is_refused(task: str, difficulty: int) -> None:
    with pytest.raises(ValueError, match=f"{task} is {difficulty}"):
        TASKS[task].generate(Random(0), difficulty)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_several_phrasings(task: str) -> None:
    rng = Random(3)
    skeletons = set()
    for _ in range(300):
        words = TASKS[task].generate(rng, LEVELS[0]).prompt.split()
        skeletons.add((words[0], len(words)))
    assert len(skeletons) >= 3


@pytest.mark.parametrize("task", PROMISED)
def test_promised_phrasings_occur(task: str) -> None:
    prompt, answer = PROMISED[task]
    assert answer_of(task, prompt) == answer
    shape = _shape(prompt)
    rng = Random(4)
    assert any(
        _shape(TASKS[task].generate(rng, difficulty).prompt) == shape for difficulty in LEVELS for _ in range(500)
    )


def _shape(prompt: str) -> str:
    """The prompt with digits as 0 and, for words after a verb, the length only."""
    if prompt.startswith("reverse "):
        return f"reverse {len(prompt.split()[-1])}" if len(prompt.split()) == 2 else prompt
    return "".join("0" if symbol.isdigit() else symbol for symbol in prompt)


def test_grading_is_exact_but_for_surrounding_space() -> None:
    item = Item("add", 1, "1 + 1", "2")
    assert TASKS["add"].grade(item, " 2\n") == 1.0
    for wrong in ("", "3", "22", "2.", "two", "2 2"):
        assert TASKS["add"].grade(item, wrong) == 0.0
    assert grade("1 3 5", "1 3 5") == 1.0 and grade("1 3 5", "1  3 5") == 0.0


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.sampled_from(["{}+{}*{}", "({}+{})*{}", "{}-{}-{}"]))
def test_expressions_follow_pythons_precedence(numbers: list[int], shape: str) -> None:
    text = shape.format(*numbers)
    assert evaluate(text) == eval(text)


def test_malformed_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="malformed"):
        evaluate("1 2")


def test_roman_numerals_are_unique() -> None:
    assert len({to_roman(number) for number in range(1, 400)}) == 399
    assert to_roman(14) == "xiv" and to_roman(399) == "cccxcix"


def test_words_are_lower_case_and_plenty() -> None:
    for length in range(3, 11):
        words = words_of_length(length)
        assert len(words) >= 30
        assert all(word.isalpha() and word.islower() and len(word) == length for word in words)
    with pytest.raises(ValueError, match="length 30"):
        words_of_length(30)
