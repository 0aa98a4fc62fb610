""""""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import components
from serve_app.data.splitting import folds, split_dataset
from serve_app.errors import DataError
from serve_app.types import Message, Query
from tests.data.samples import answers, sums

WORDS = ["river", "stone", "garden", "winter", "candle", "letter", "market", "silver", "window", "yellow", "planet"]


def texts_with_copies(n: int, seed: int) -> Dataset:
    """Sentences of ten words, each third one an edited copy of an earlier one; ten groups."""
    rng = Random(seed)
    texts: list[str] = []
    for i in range(n):
        words = rng.choice(texts).split() if i % 3 == 2 else [rng.choice(WORDS) for _ in range(20)]
        if i % 3 == 2:
            words[rng.randrange(len(words))] = words[0].upper()
        texts.append(" ".join(words))
    queries = tuple(Query((Message("user", text),)) for text in texts)
    groups = tuple(f"g{rng.randrange(10)}" for _ in texts)
    return Dataset(queries, {"small": answers("s", [0.5] * n), "large": answers("l", [1.0] * n)}, groups)


@pytest.mark.slow
def test_no_near_duplicates_straddle_a_split() -> None:
    data = texts_with_copies(300, seed=1)
    labels = components([q.text for q in data.queries])
    assert len(set(labels)) < 250
    for seed in range(5):
        parts = split_dataset(data, {"train": 0.7, "test": 0.3}, seed)
        rows = {name: [int(i) for i in part.ids] for name, part in parts.items()}
        assert parts["test"].about["part"] == {
            "name": "test", "share": 0.3, "seed": seed, "threshold": 0.8, "by_group": False
        }  # fmt: skip
        assert sorted(rows["train"] + rows["test"]) == list(range(300)) and rows["train"] == sorted(rows["train"])
        assert not set(labels[rows["train"]]) & set(labels[rows["test"]])
        assert abs(len(rows["train"]) - 210) <= 3


def test_the_seed_makes_the_split() -> None:
    data = texts_with_copies(90, seed=2)
    one, again, other = (split_dataset(data, {"train": 0.5}, seed)["train"].ids for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == 45


@pytest.mark.slow
def test_folds_are_even_and_keep_near_duplicates_together() -> None:
    data = texts_with_copies(300, seed=3)
    found = folds(data, 5, 0)
    assert np.bincount(found).tolist() == [60] * 5
    labels = components([q.text for q in data.queries])
    assert all(len(set(found[labels == label])) == 1 for label in set(labels))
    assert (folds(data, 5, 1) != found).any()


def test_folds_by_group_keep_groups_whole_and_near_duplicates_too() -> None:
    data = sums(200, seed=4)
    groups = tuple(f"g{i % 7}" for i in range(200))
    unlike = tuple(Query((Message("user", f"{i} " + " ".join(Random(i).choices(WORDS, k=12))),)) for i in range(200))
    data = replace(data, queries=unlike, groups=groups)
    found = folds(data, 3, 0, by_group=True)
    assert {len(set(found[np.array(groups) == g])) for g in set(groups)} == {1} and set(found) == {0, 1, 2}
    copied = replace(data, queries=(*unlike[:199], unlike[0]))  # row 199, of g3, copies row 0, of g0
    tied = folds(copied, 3, 0, by_group=True)
    assert len(set(tied[np.isin(groups, ["g0", "g3"])])) == 1


def test_too_little_to_split_is_said() -> None:
    same = replace(sums(10, 0), queries=(Query((Message("user", "one text"),)),) * 10)
    with pytest.raises(DataError, match=r"2 folds .*2 queries .*1"):
        folds(same, 2, 0)
    with pytest.raises(DataError, match=r"groups .*near-duplicates, .*1"):
        folds(sums(10, 0), 2, 0, by_group=True)
    with pytest.raises(DataError, match=r"test .*empty"):
        split_dataset(same, {"train": 0.8, "test": 0.2}, 0)
    with pytest.raises(ValueError, match="at least 2 folds"):
        folds(same, 1, 0)
    with pytest.raises(ValueError, match="shares"):
        split_dataset(same, {"train": 0.8, "test": 0.3}, 0)


def test_instructions_in_common_make_no_near_duplicates() -> None:
    long = Message("system", " ".join(WORDS * 20))
    data = sums(40, 0)
    data = replace(data, queries=tuple(Query((long, *q.messages)) for q in data.queries))
    assert len(set(folds(data, 5, 0))) == 5
    alone = replace(data, queries=(Query((long,)),) * 40)
    with pytest.raises(DataError, match=" 1"):
        folds(alone, 2, 0)
