""""""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.grading import get_metric
from serve_app.grading.exact import matches, normalise
from tests.grading.rows import dataset


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower.", "eiffel tower"),
        ("An apple, a pear & the plum", "apple pear plum"),
        ("it's U.S.-made", "its usmade"),
        ("theatre and anthem", "theatre and anthem"),
        ("«Привет», ¡hola!", "привет hola"),
        ("Cafe\u0301", "caf\u00e9"),
        ("a-b", "ab"),
        (" \n\t", ""),
    ],
)
def test_normalisation_is_squads(text, normal):
    assert normalise(text) == normal


@given(st.text())
def test_normalising_again_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(
    st.text(alphabet="aAthe .,!-\n\tnXé\u0301", max_size=30), st.text(alphabet="aAthe .,!-\n\tnXé\u0301", max_size=30)
)
def test_matching_is_an_equality(one, other):
    assert matches(one, one) and matches(f" the {one}!\n", one) == bool(normalise(one))
    assert matches(one, other) == matches(other, one)


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("A", "a", True),
        ("A", "", False),
        ("A", "the", False),
        ("+", "-", False),
        ("+", " + ", True),
        ("Paris", "paris.", True),
        ("Paris", "Paris, France", False),
        ("", " ", True),
        ("", "x", False),
        ("x", "", False),
    ],
)
def test_what_is_all_articles_and_punctuation_is_compared_as_it_stands(reference, answer, same):
    assert matches(reference, answer) is same


async def test_without_normalising_only_the_edges_and_unicodes_forms_are_evened():
    rows = dataset({"small": [["5", "-5", " -5\n"], ["Caf\u00e9", "caf\u00e9", "the Caf\u00e9"]]}, ["-5", "Cafe\u0301"])
    after = await get_metric("exact", normalise=False).score(rows)
    assert after.weak.quality.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert after.about["metric_options"] == {"normalise": False}
    assert (await get_metric("exact").score(rows)).weak.quality.tolist() == [[1, 1, 1], [1, 1, 1]]
