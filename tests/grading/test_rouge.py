""""""

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import ConfigError, DependencyError
from serve_app.grading import get_metric
from tests.grading.rows import dataset

WORDS = st.lists(st.sampled_from(["red", "blue", "a", "7"]), min_size=1, max_size=8)


def lcs(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by its recursive definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return lcs(a[:-1], b[:-1]) + 1
    return max(lcs(a[:-1], b), lcs(a, b[:-1]))


def f_measure(common: int, reference: list[str], answer: list[str]) -> float:
    return 2 * common / (len(reference) + len(answer)) if common else 0.0


@settings(max_examples=50)
@given(WORDS, WORDS)
def test_by_definition(reference, answer):
    common = (Counter(reference) & Counter(answer)).total()
    text, given_ = " ".join(answer), " ".join(reference)
    assert get_metric("token_f1").grade(given_, text) == pytest.approx(f_measure(common, reference, answer))
    if len(reference) + len(answer) <= 12:
        expected = f_measure(lcs(reference, answer), reference, answer)
        assert get_metric("rouge_l").grade(given_, text) == pytest.approx(expected)


@given(st.text(max_size=40))
def test_the_range_is_kept(answer):
    for name in ("rouge_l", "token_f1"):
        assert 0.0 <= get_metric(name, tokens="words").grade("the дом 4", answer) <= 1.0


async def test_order_counts_for_one_and_not_for_the_other():
    rows = dataset({"small": [["three two one", "One, two, THREE!", ""]]}, ["one two three"])
    assert (await get_metric("token_f1").score(rows)).weak.quality[0].tolist() == [1, 1, 0]
    assert (await get_metric("rouge_l").score(rows)).weak.quality[0].tolist() == pytest.approx([1 / 3, 1, 0])


async def test_other_scripts_need_other_tokens():
    rows = dataset({"small": [["Белый дом", "дом"]]}, ["белый дом"])
    after = await get_metric("token_f1", tokens="words").score(rows)
    assert after.weak.quality[0].tolist() == pytest.approx([1, 2 / 3])
    assert after.about["metric_options"] == {"tokens": "words"}
    with pytest.raises(ConfigError, match="tokens='words'"):
        await get_metric("token_f1").score(rows)
    with pytest.raises(ConfigError, match="'rouge' or 'words'"):
        get_metric("rouge_l", tokens="bytes")


def test_without_the_library_the_mend_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(DependencyError, match=r'pip install "jethro\[train\]"'):
        get_metric("rouge_l")
