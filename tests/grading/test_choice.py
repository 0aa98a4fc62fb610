""""""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import ConfigError
from serve_app.grading import get_metric
from serve_app.grading.exact import Choice
from tests.grading.rows import dataset


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B)\n", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("$\\boxed{B}$", "B"),
        ("B. Because A is wrong", "B"),
        ("(C) 4", "C"),
        ("C) four", "C"),
        ("**D.** The degree is 4", "D"),
        ("B\nThe field has degree 4.", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is option (C).", "C"),
        ("Answer: D", "D"),
        ("the answer is **A**", "A"),
        ("First I thought the answer is A. But no: the answer is C", "C"),
        ("A man walks. The answer would be D", "D"),
        ("It can only be C, as shown.", "C"),
        ("Option D", "D"),
        ("the answer is (b)", "B"),
        ("So the answer is c.", "C"),
        ("The answer is A because of B", "A"),
        ("answer: d", "D"),
        ("A field has degree 4, so it is B", "B"),
    ],
)
def test_the_letter_is_read(text, letter):
    assert Choice().letter(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "E",
        "4",
        "It is A or B",
        "a man walks",
        "Bananas",
        "the answer is bananas",
        "vitamin B's",
        "the answer is a bit long",
        "A field has degree 4",
        "A man, a plan",
        "the answer (a guess) is four",
        "I don't know",
    ],
)
def test_nothing_is_guessed(text):
    assert Choice().letter(text) is None


@given(st.text())
def test_a_letter_is_one_of_those_there_are(text):
    assert Choice().letter(text) in {None, *"ABCD"}


async def test_other_letters_may_be_picked_from():
    rows = dataset({"small": [["J", "I think it is E", "K"]]}, ["E"])
    after = await get_metric("choice", letters="ABCDEFGHIJ").score(rows)
    assert after.weak.quality.tolist() == [[0, 1, 0]]
    assert after.about["metric_told"] == {"unread": {"small": 1}}
    for bad in ("A", "AA", "abcd", "AÄ", ""):
        with pytest.raises(ConfigError, match="different capitals"):
            get_metric("choice", letters=bad)
