""""""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.streams.labels import normal, parsed, question
from tests.streams.fakes import spec

FEELINGS = ("joy", "sadness", "fear")


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("joy", 0),
        ("  Joy.\n", 0),
        ("**SADNESS**", 1),
        ('"fear"', 2),
        ('{"label": "fear"}', 2),
        ("The feeling is sadness, I think.", 1),
        ("joy joy joy", 0),
        ("ｊｏｙ", 0),  # full-width letters
        ("", None),
        ("   ", None),
        ("anger", None),
        ("joyful", None),
        ("joy or fear", None),
        ("not joy", None),
        ("It isn't joy.", None),
        ('{"label": "anger"}', None),
        ('{"label": 3}', None),
        ('{"label": "joy"', 0),  # cut short, yet it names one label only
        ("\ud83d\ude00", None),
    ],
)
def test_an_answer_names_one_label_or_none(answer, index):
    assert parsed(answer, FEELINGS) == index


def test_a_label_inside_another_is_the_longer_one():
    labels = ("toxic", "not toxic", "very toxic")
    assert [parsed(a, labels) for a in ("toxic", "not toxic", "It is not toxic.", "This is very toxic")] == [0, 1, 1, 2]
    assert parsed("toxic, not toxic", labels) is None


def test_labels_in_scripts_without_blanks_and_signs():
    assert parsed("这是喜悦。", ("喜悦", "恐惧")) == 0
    assert parsed("喜悦还是恐惧", ("喜悦", "恐惧")) is None
    assert parsed("I say 👍", ("👍", "👎")) == 0
    assert parsed("Fröhlich!", ("fröhlich", "traurig")) == 0


def test_labels_that_are_numbers_are_whole_words():
    assert parsed("Answer: 1", ("1", "10")) == 0
    assert parsed("10", ("1", "10")) == 1
    assert parsed("100", ("1", "10")) is None


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(answer):
    index = parsed(answer, FEELINGS)
    assert index is None or FEELINGS[index] in normal(answer)


def test_the_llm_is_asked_for_one_short_answer_in_the_streams_own_words():
    query = question(spec(), "what a day", guided=False)
    system, user = query.messages
    assert (user.role, user.content) == ("user", "what a day")
    assert "Name the feeling." in system.content
    assert "joy, fear" in system.content
    assert query.sampling.temperature == 0
    assert 4 <= (query.sampling.max_tokens or 0) <= 16
    assert query.response_format is None


def test_where_the_pool_can_the_answer_is_held_to_the_labels():
    form = question(spec(), "what a day", guided=True).response_format
    assert form is not None
    assert form["json_schema"]["schema"]["properties"]["label"]["enum"] == ["joy", "fear"]


def test_an_answer_that_is_nested_without_end_names_no_label():
    assert parsed('{"label":' * 200_000, FEELINGS) is None
