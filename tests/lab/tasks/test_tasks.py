"""Every task's answers, against an independent oracle; grading; the phrasings that callers rely on."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize(("task", "size"), CELLS)
def test_answers_are_right_by_an_independent_oracle(task: str, size: str) -> None:
    rng = Random(f"{task}{size}")
    for _ in range(300):
        item = TASKS[task].generate(rng, size)
        assert (item.task, item.size, item.difficulty) == (task, size, TASKS[task].sizes[size])
        assert item.answer == answer_of(task, item.prompt), item


@pytest.mark.parametrize(("task", "size"), CELLS)
def test_prompts_are_trimmed_lower_case_ascii(task: str, size: str) -> None:
    rng = Random(2)
    for item in (TASKS[task].generate(rng, size) for _ in range(50)):
        for text in (item.prompt, item.answer):
            assert text and text == text.strip() == text.lower() and text.isascii()


@pytest.mark.parametrize(("task", "size"), CELLS)
def test_same_seed_same_item(task: str, size: str) -> None:
    assert TASKS[task].generate(Random(7), size) == TASKS[task].generate(Random(7), size)


@pytest.mark.parametrize("task", TASKS)
def test_unknown_size_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match=f"{task} is 'huge'"):
        TASKS[task].generate(Random(0), "huge")


@pytest.mark.parametrize("task", TASKS)
def test_sizes_rise_in_difficulty(task: str) -> None:
    levels = set(TASKS[task].sizes.values())
    assert levels <= set(LEVELS) and min(levels) <= 2 and max(levels) >= 4


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("add", {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}),
        ("subtract", {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}),
        ("multiply", {(1, 1), (1, 2), (2, 1)}),
    ],
)
def test_operands_have_every_number_of_digits(task: str, sizes: set[tuple[int, int]]) -> None:
    rng = Random(5)
    drawn = [TASKS[task].generate(rng, size).prompt for size in TASKS[task].sizes for _ in range(300)]
    assert {tuple(map(len, re.findall(r"\d+", prompt))) for prompt in drawn} == sizes


@pytest.mark.parametrize(("task", "counts"), [("sort", set(range(2, 7))), ("largest", set(range(2, 9)))])
def test_lists_have_every_length(task: str, counts: set[int]) -> None:
    rng = Random(6)
    drawn = [TASKS[task].generate(rng, size).prompt for size in TASKS[task].sizes for _ in range(50)]
    assert {len(re.findall(r"\d+", prompt)) for prompt in drawn} == counts


@pytest.mark.parametrize("task", ["reverse", "count"])
def test_words_have_every_length(task: str) -> None:
    rng = Random(7)
    drawn = [TASKS[task].generate(rng, size) for size in TASKS[task].sizes for _ in range(300)]
    lengths = [int(i.answer) for i in drawn if i.size.startswith("letters")] or [len(i.answer) for i in drawn]
    assert set(lengths) == set(range(1, 11))


def test_everything_else_has_one_answer() -> None:
    rng = Random(8)
    drawn = [TASKS["other"].generate(rng, size) for size in TASKS["other"].sizes for _ in range(500)]
    assert {item.answer for item in drawn} == {"i only know small tasks"}
    assert len({item.prompt for item in drawn}) > 1500
    assert not any("{" in item.prompt for item in drawn)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_several_phrasings(task: str) -> None:
    rng = Random(3)
    skeletons = set()
    for _ in range(300):
        words = TASKS[task].generate(rng, next(iter(TASKS[task].sizes))).prompt.split()
        skeletons.add((words[0], len(words)))
    assert len(skeletons) >= 3


@pytest.mark.parametrize("task", PROMISED)
def test_promised_phrasings_occur(task: str) -> None:
    prompt, answer = PROMISED[task]
    assert answer_of(task, prompt) == answer
    shape = _shape(prompt)
    rng = Random(4)
    assert any(
        _shape(TASKS[task].generate(rng, size).prompt) == shape for size in TASKS[task].sizes for _ in range(2000)
    )


def _shape(prompt: str) -> str:
    """The prompt with digits as 0 and, for words after a verb, the length only."""
    if prompt.startswith("reverse "):
        return f"reverse {len(prompt.split()[-1])}" if len(prompt.split()) == 2 else prompt
    return "".join("0" if symbol.isdigit() else symbol for symbol in prompt)


def test_grading_is_exact_but_for_surrounding_space() -> None:
    item = Item("add", "1 and 1 digits", 1, "1 + 1", "2")
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


def test_who_has_something_is_none_of_the_tasks() -> None:
    """The models answer how many of a text, and say of this question that they do not know."""
    rng = Random(4)
    near = [TASKS["other"].generate(rng, "near a task").prompt for _ in range(300)]
    who = [prompt for prompt in near if re.search(r"\bhas \d", prompt) and re.search(r"\bwho\b", prompt)]
    assert 10 < len(who) < 60
    lookups = [TASKS["lookup"].generate(rng, "3 people").prompt for _ in range(100)]
    assert not any(re.search(r"\bwho\b", prompt) for prompt in lookups)
