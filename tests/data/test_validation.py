""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.validation import check, check_leak
from serve_app.errors import DataError
from serve_app.types import Message, Query
from tests.data.samples import answers, sums


def test_good_data_pass() -> None:
    data = sums(30, seed=0)
    check(data)
    untimed = np.full((30, 1), np.nan)
    check(replace(data, pools={**data.pools, "large": replace(data.strong, latency_ms=untimed)}))


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        check(sums(3, seed=0).take([]))


def test_a_missing_pool_is_named() -> None:
    with pytest.raises(DataError, match=r"'middle', .*small, large"):
        check(sums(30, seed=0), pools=("small", "middle", "large"))


@pytest.mark.parametrize(
    ("measure", "value", "message"),
    [
        ("quality", np.nan, r"row 7 \(id '7'\): .*quality of small, sample 0, .*nan"),
        ("cost_usd", np.nan, r"row 7 \(id '7'\): cost_usd of small, sample 0, .*nan"),
        ("cost_usd", np.inf, "cost_usd of small, sample 0, .*inf"),
        ("completion_tokens", -1.0, "completion_tokens of small, sample 0, .*-1"),
    ],
)
def test_a_bad_value_is_named_with_its_row(measure: str, value: float, message: str) -> None:
    data = sums(30, seed=0)
    getattr(data.weak, measure)[7, 0] = value
    with pytest.raises(DataError, match=message) as raised:
        check(data, source="a.parquet")
    assert raised.value.message.startswith("a.parquet, row 7")


def test_answers_that_nobody_scored_are_refused() -> None:
    data = sums(3, seed=0)
    data.strong.quality[:] = np.nan
    with pytest.raises(DataError, match=r"pool large .*jethro data score"):
        check(data)


def test_a_query_without_text_is_named() -> None:
    data = sums(3, seed=0)
    with pytest.raises(DataError, match=r"row 1 \(id '1'\): .*no text"):
        check(replace(data, queries=(data.queries[0], Query((Message("user", " "),)), data.queries[2])))


@pytest.mark.parametrize(("strong", "message"), [(1.0, "large is better than small"), (0.0, "large is no better")])
def test_one_class_alone_is_refused_unless_allowed(strong: float, message: str) -> None:
    data = sums(5, seed=0)
    one = replace(data, pools={"small": answers("w", [0.5] * 5), "large": answers("s", [strong] * 5)})
    with pytest.raises(DataError, match=f"one class.*{message} .*5 queries"):
        check(one)
    check(one, needs_two_classes=False)
    check(one, pools=("large",))


def asking(ids: str, *texts: str) -> Dataset:
    n = len(texts)
    return Dataset(
        tuple(Query((Message("user", t),)) for t in texts),
        {"small": answers("s", [1.0] * n)},
        ("",) * n,
        ids=tuple(ids),
    )


def test_a_leak_is_named_with_both_texts() -> None:
    train = asking("abc", "Name the capital of France, please.", "how many legs has a spider", "what is 2 + 2?")
    check_leak(train, asking("xy", "how many wings has a wasp in summer", "what is 2 + 3?"))
    with pytest.raises(DataError, match=r"'y' \('name the capital of FRANCE please'\) .*'a' \('Name the cap"):
        check_leak(train, asking("xy", "what is 2 + 3?", "name the capital of FRANCE please"))


def test_a_leak_between_repeated_queries_is_found() -> None:
    """Equal texts are compared once: a copy later in the row must not hide."""
    train, test = asking("ab", "same text here", "same text here"), asking("xyz", "other words", "q", "Same text, here")
    with pytest.raises(DataError, match="'z'"):
        check_leak(train, test)
