"""Edit similarity: hand-made cases, and the properties of a distance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hybrid_llm.edit_similarity import edit_distance, edit_similarity

WORDS = st.text("abc", max_size=8)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("327", "337", 1), ("ab", "ba", 2), ("oak", "koak", 1)],
)
def test_distances(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@pytest.mark.parametrize(
    ("reference", "text", "similarity"),
    [
        ("327", "327", 1.0),
        ("327", " 327\n", 1.0),
        ("327", "337", 2 / 3),
        ("327", "", 0.0),
        ("", "", 1.0),
        ("a", "xyz", 0),
    ],
)
def test_similarities(reference: str, text: str, similarity: float) -> None:
    assert edit_similarity(reference, text) == pytest.approx(similarity)


@given(WORDS, WORDS, WORDS)
def test_it_is_a_distance(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(WORDS, WORDS)
def test_only_equal_texts_are_wholly_alike(a: str, b: str) -> None:
    assert 0.0 <= edit_similarity(a, b) <= 1.0
    assert (edit_similarity(a, b) == 1.0) == (a == b)
