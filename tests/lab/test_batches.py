"""What training reads: conversations about one text, plain forms first, and nothing of what is held out."""

from __future__ import annotations

import re
from random import Random

import pytest

from serve_app.lab.batches import IGNORE, Lesson, RoundShape, round_of_batches
from serve_app.lab.model import build_tokenizer
from serve_app.lab.sample import split_of
from serve_app.lab.tasks import CELLS, TASKS

LOOKUPS = [size for task, size in CELLS if task == "lookup"]


def decoded(
    share: float, task: str, rounds: int = 3, tasks: tuple[str, ...] = tuple(TASKS), further: float = 0.9
) -> list[str]:
    tokenizer = build_tokenizer()
    weights = [float(cell[0] == task) for cell in CELLS]
    shape = RoundShape(examples=120, rows=20, parts=2)
    found = []
    for index in range(rounds):
        for step in round_of_batches(0, index, weights, shape, tasks, [Lesson(share, further)] * len(CELLS)):
            for batch in step:
                assert ((batch.labels == IGNORE) | (batch.labels == batch.ids)).all()
                found += [tokenizer.decode(row) for row in batch.ids]
    return found


@pytest.mark.parametrize("size", LOOKUPS)
@pytest.mark.parametrize("plain", [True, False])
def test_further_questions_are_answered_from_the_text(size: str, plain: bool) -> None:
    rng = Random(size)
    for _ in range(50):
        first, *further = TASKS["lookup"].conversation(rng, size, plain)
        facts = first[0]
        assert len(further) == 6
        for question, answer in (first, *further):
            assert re.search(rf"\b{answer}\b", facts)
            asked = re.findall(r"[a-z0-9]+", question if question != facts else facts[-30:])
            assert set(asked) & set(re.findall(r"[a-z0-9]+", facts))


def test_a_value_asked_for_is_that_of_its_letter() -> None:
    rng = Random(5)
    for _ in range(200):
        first, *further = TASKS["lookup"].conversation(rng, "4 values", plain=True)
        values = dict(re.findall(r"([a-z]) = (\d+)", first[0]))
        assert values[first[0][-2]] == first[1]
        assert all(values[question[0]] == answer for question, answer in further)


def test_questions_repeat_so_that_what_was_said_before_rules_nothing_out() -> None:
    rng = Random(9)
    seen = [[q for q, _ in TASKS["lookup"].conversation(rng, "3 values", plain=True)[1:]] for _ in range(50)]
    assert all(len(set(questions)) < len(questions) for questions in seen)


@pytest.mark.parametrize("plain", [True, False])
def test_further_letters_of_a_word_are_counted(plain: bool) -> None:
    rng = Random(6)
    for size in ("one letter of 1 to 5", "one letter of 6 to 10"):
        for _ in range(50):
            (first, answer), *further = TASKS["count"].conversation(rng, size, plain)
            if plain:
                letter, word = re.fullmatch(r"how many ([a-z]) in ([a-z]+)\?", first).groups()  # type: ignore[union-attr]
                assert int(answer) == word.count(letter)
                assert [int(count) for _, count in further] == [word.count(question[0]) for question, _ in further]
            assert len(further) == 6 and all(re.fullmatch(r"[a-z]\?", question) for question, _ in further)
    assert not TASKS["count"].conversation(rng, "vowels of 1 to 5", plain)


def test_what_is_judged_is_the_answer_to_the_cells_query() -> None:
    """Not that of an earlier turn, nor of a further question."""
    tokenizer, weights = build_tokenizer(), [float(cell == ("lookup", "2 people")) for cell in CELLS]
    judged = []
    for index in range(4):
        shape = RoundShape(examples=200, rows=20, parts=2)
        for step in round_of_batches(0, index, weights, shape, lessons=[Lesson(0.0, 0.5)] * len(CELLS)):
            for batch in step:
                for ids, position in zip(batch.ids, batch.judged.tolist(), strict=True):
                    judged.append(position)
                    with_text = re.findall(r"<\|user\|>[^<]*has \d", tokenizer.decode(ids))
                    assert position == len(with_text) - 1  # further questions have no text of their own
    assert 0.9 < judged.count(0) / len(judged) < 1


@pytest.mark.parametrize(("task", "form"), [("sort", r"sort [\d ]+"), ("largest", r"(largest|smallest) of [\d ]+")])
def test_plain_forms_are_of_one_wording(task: str, form: str) -> None:
    rng = Random(3)
    for size in TASKS[task].sizes:
        ((prompt, answer),) = TASKS[task].conversation(rng, size, plain=True)
        numbers = [int(n) for n in re.findall(r"\d+", prompt)]
        assert re.fullmatch(form, prompt) and len(numbers) == int(size.split()[0])
        right = sorted(numbers) if task == "sort" else [max(numbers) if "largest" in prompt else min(numbers)]
        assert [int(n) for n in answer.split()] == right
        assert not TASKS[task].conversation(rng, size, plain=False)


def test_plain_forms_are_drawn_as_often_as_asked() -> None:
    plain = [text for text in decoded(1.0, "sort") if "<|user|>sort " in text]
    assert len(plain) > 0.9 * len(decoded(1.0, "sort"))
    assert any("," in text for text in decoded(0.0, "sort"))


def test_some_texts_are_asked_about_more_than_once() -> None:
    turns = [text.count("<|user|>") for text in decoded(0.0, "lookup")]
    assert 0.7 < sum(count > 1 for count in turns) / len(turns) < 0.98
    turns = [text.count("<|user|>") for text in decoded(0.0, "lookup", further=0.0)]
    assert sum(count > 1 for count in turns) / len(turns) < 0.2


def test_a_specialist_says_of_a_text_only_that_it_does_not_know() -> None:
    for text in decoded(1.0, "lookup", rounds=1, tasks=("sort", "other")):
        assert "<|assistant|>i only know small tasks<|eos|>" in text


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_no_first_prompt_is_held_out(plain: float) -> None:
    for text in decoded(plain, "largest", rounds=1):
        if text.count("<|user|>") == 1:
            prompt = text.split("<|user|>")[1].split("<|assistant|>")[0]
            assert split_of(prompt) == "train"
