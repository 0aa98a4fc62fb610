"""Near-duplicates against all pairs by brute force, and what counts as one."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.data import near_duplicates
from serve_app.data.near_duplicates import components, normalise, similar_pairs

LONG = (
    "A farmer sells eggs at the market for two dollars each. She keeps three for breakfast and bakes muffins for her "
    "friends every day with four. How much does she make every day?"
)


def grams(text: str) -> set[str]:
    text = "\0" * 4 + normalise(text) + "\0" * 4
    return {text[i : i + 5] for i in range(len(text) - 4)}


def brute(texts: list[str], threshold: float) -> list[list[int]]:
    """Components by comparing every text with every other."""
    label = list(range(len(texts)))
    sets = [grams(text) for text in texts]
    for i in range(len(texts)):
        for j in range(i):
            if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j]) - 1e-9:
                old, new = label[i], label[j]
                label = [new if at == old else at for at in label]
    return grouped(label)


def grouped(labels: list[int]) -> list[list[int]]:
    return sorted([i for i, at in enumerate(labels) if at == label] for label in set(labels))


@given(
    st.lists(st.lists(st.sampled_from(["ab", "cde", "fghi", "+", "12", "ß"]), max_size=9).map(" ".join), max_size=25),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_components_are_those_of_all_pairs(texts: list[str], threshold: float) -> None:
    assert grouped(components(texts, threshold).tolist()) == brute(texts, threshold)


def test_edited_copies_of_long_texts_are_found_as_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 50)  # so that candidates come in many pieces
    rng = Random(0)
    texts = []
    for _ in range(60):
        words = LONG.split() if rng.random() < 0.5 else rng.sample(LONG.split(), 20)
        for _ in range(rng.randrange(6)):
            words[rng.randrange(len(words))] = rng.choice(("hens", "cows", "seven"))
        texts.append(" ".join(words))
    found = grouped(components(texts, 0.8).tolist())
    assert found == brute(texts, 0.8) and 1 < len(found) < 60


@pytest.mark.parametrize(
    "copy",
    [
        LONG.upper(),
        LONG.replace(",", "").replace(".", " !").replace("?", ""),
        "  " + LONG.replace(" ", "\n "),
        LONG.replace("breakfast", "dinner"),
        LONG.replace("three ", ""),
        LONG.replace("eggs", "fresh eggs"),
    ],
)
def test_copies_in_other_dress_and_one_word_edits_are_near(copy: str) -> None:
    assert components([LONG, "something else entirely", copy]).tolist()[::2] == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what is 12 + 30?", "what is 13 + 31?"),
        ("what is 12 + 30?", "what is 12 - 30?"),
        ("reverse stone", "reverse duck"),
        ("9 * 6", "9 / 6"),
        (LONG, " ".join(sorted(LONG.split()))),
    ],
)
def test_other_questions_are_not(one: str, other: str) -> None:
    assert len(set(components([one, other]))) == 2


def test_normalised_texts() -> None:
    assert normalise("What's  2+3, Straße?") == "what s 2 + 3 strasse"
    assert normalise("a\u0301 \ufb01x\n*/") == "\u00e1 fix * /"


def test_chains_join_and_nothing_is_well_answered() -> None:
    assert components([]).tolist() == []
    assert components([""]).tolist() == [0]
    assert len(set(components(["", "!", "a", "b"]))) == 3
    many = components(["same"] * 1000 + ["other text"])
    assert (many[:1000] == many[0]).all() and many[1000] != many[0]


def test_a_threshold_that_means_nothing_is_refused() -> None:
    for threshold in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not in"):
            list(similar_pairs(["a"], threshold))


def test_numbers_alone_do_not_make_one_component_of_a_family() -> None:
    rng = np.random.default_rng(0)
    sums = sorted({f"what is {a} + {b}?" for a, b in rng.integers(10, 100, (500, 2))})
    assert np.bincount(components(sums)).max() == 1
