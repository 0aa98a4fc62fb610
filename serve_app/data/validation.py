"""Whether data can be learned from and measured on; data that cannot are refused with the row and the reason.

Duplicate ids and columns of unequal length are refused where a data set is made, on reading a file.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import MEASURES, Dataset
from serve_app.data.near_duplicates import THRESHOLD, compared, similar_pairs
from serve_app.data.preferences import Preferences
from serve_app.data.recorded import read_answers
from serve_app.errors import ConfigError, DataError

PAIR: Final = ("small", "large")
_SHOWN_CHARS: Final = 80


def check(
    dataset: Dataset,
    *,
    pools: Sequence[str] = ("small", "large"),
    needs_two_classes: bool = True,
    source: str = "the dataset",
) -> None:
    """Refuse data that a router over these pools, weakest first, cannot learn from.

    Two classes: neither the first nor the last pool is the better one, by mean quality, on all queries. `source`
    (a file) is how messages call the data. Raises DataError for no rows, a missing pool, a query without text, a
    sample that is not scored, a cost, token count or latency that is negative or not finite, and for one class alone.
    """
    if not len(dataset):
        raise DataError(f"{source} is empty: there is nothing to learn from; collect or import answers first")
    if missing := [name for name in pools if name not in dataset.pools]:
        found = ", ".join(dataset.pools) or "none"
        raise DataError(f"{source} has no pool {missing[0]!r}, but {found}; collect its answers, or name another")
    for row, query in enumerate(dataset.queries):
        if not query.text.strip():
            raise _fault(source, dataset, row, "the query has no text; drop the row")
    for name in pools:
        _check_pool(source, dataset, name)
    if needs_two_classes and len(pools) > 1:
        _check_classes(source, dataset, pools[0], pools[-1])


def check_leak(train: Dataset, test: Dataset, threshold: float = THRESHOLD) -> None:
    """Refuse a test set with a query that is, nearly, one of the training set's.

    Raises DataError naming the first such pair of ids with both texts.
    """
    n = len(train)
    texts = [compared(query) for part in (train, test) for query in part.queries]
    for pairs in similar_pairs(texts, threshold):
        crossing = pairs[(pairs[:, 0] < n) != (pairs[:, 1] < n)]
        if len(crossing):
            left, right = sorted(crossing[np.lexsort(crossing.T[::-1])[0]])
            raise DataError(
                f"the test data leak into the training data: {test.ids[right - n]!r} ({_shown(texts[right])}) "
                f"is nearly {train.ids[left]!r} ({_shown(texts[left])}); split the data with `jethro data split`"
            )


def _check_pool(source: str, dataset: Dataset, name: str) -> None:
    pool = dataset.pools[name]
    nan = np.isnan(pool.quality)
    if nan.all():
        raise DataError(f"{source}: the answers of pool {name} are not scored; score them with `jethro data score`")
    if nan.any():
        row, sample = (int(i) for i in np.argwhere(nan)[0])
        what = f"the quality of {name}, sample {sample}, is nan; score the answers, or drop the row"
        raise _fault(source, dataset, row, what)
    for measure in MEASURES[1:]:
        values: Floats | None = getattr(pool, measure)
        if values is None:
            continue
        # a sample that was not timed is nan, and no fault
        wrong = (values < 0) | np.isinf(values) | (np.isnan(values) & (measure != "latency_ms"))
        if wrong.any():
            row, sample = (int(i) for i in np.argwhere(wrong)[0])
            what = f"{measure} of {name}, sample {sample}, is {values[row, sample]:g}; fix it, or drop the row"
            raise _fault(source, dataset, row, what)


def _check_classes(source: str, dataset: Dataset, weak: str, strong: str) -> None:
    better = dataset.pools[strong].quality.mean(1) > dataset.pools[weak].quality.mean(1)
    if better.all() or not better.any():
        verdict = "better" if better.all() else "no better"
        raise DataError(
            f"{source}: one class alone: {strong} is {verdict} than {weak} on all {len(dataset)} queries, from row 0 "
            f"(id {dataset.ids[0]!r}) on, so there is nothing to distinguish; collect other queries, or use one pool"
        )


def _fault(source: str, dataset: Dataset, row: int, what: str) -> DataError:
    return DataError(f"{source}, row {row} (id {dataset.ids[row]!r}): {what}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "...")


def check_scored(dataset: Dataset, router: str, pools: Collection[str] | None = None) -> None:
    """Raises ConfigError, naming the router, for no queries, no `small` or `large`, or an answer without quality.

    Answers of `pools` are looked at, by default of all.
    """
    if len(dataset) == 0:
        raise ConfigError(f"{router}: the dataset is empty; collect answers first")
    if missing := [pool for pool in PAIR if pool not in dataset.pools]:
        raise ConfigError(f"{router}: the dataset has no pool {missing[0]!r}; collect its answers")
    for pool in dataset.pools if pools is None else pools:
        unscored = np.isnan(dataset.pools[pool].quality).any(1)
        if unscored.any():
            row = dataset.ids[int(np.argmax(unscored))]
            raise ConfigError(f"{router}: row {row!r} of pool {pool} is not scored; score the dataset")


def load_pair(
    path: Path, weak: str = "small", strong: str = "large", preferences: Path | None = None, *, to_learn: bool = False
) -> Dataset:
    """The data set of a file with the pools that a router chooses between named small and large.

    `preferences` is a file of further battles. Further pools stay, for routers of many pools, unless others than small
    and large are chosen. `to_learn`: data in which one pool is better throughout are refused too. Raises DataError,
    naming file and row, for what cannot be used (see `check`).
    """
    dataset = read_answers(path)
    own = (weak, strong) == PAIR
    further = [name for name in dataset.pools if name not in PAIR] if own else []
    check(dataset, pools=(weak, *further, strong), needs_two_classes=to_learn, source=str(path))
    found = dataset if own else dataset.pair(weak, strong)
    return found if preferences is None else replace(found, preferences=Preferences.load(preferences))
