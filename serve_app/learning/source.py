"""Reads the data that a router is trained or measured on, and refuses what cannot be used."""

from pathlib import Path

import numpy as np

from serve_app.errors import DataError
from serve_app.learning.dataset import Dataset


def read_dataset(path: Path, weak: str = "small", strong: str = "large", preferences: Path | None = None) -> Dataset:
    """The dataset in a file with the pools `weak` and `strong` as small and large, and further battles if given.

    Raises DataError naming file and row for data without queries or without quality, ConfigError for a pool that is
    not there.
    """
    from dataclasses import replace

    from serve_app.learning.preferences import Preferences

    dataset = Dataset.load(path).pair(weak, strong)
    if len(dataset) == 0:
        raise DataError(f"{path}: holds no queries; collect or import some")
    for name, answers in ((weak, dataset.weak), (strong, dataset.strong)):
        rows = np.flatnonzero(np.isnan(answers.quality).any(axis=1))
        if len(rows):
            i = int(rows[0])
            raise DataError(
                f"{path}, row {i} (id {dataset.ids[i]!r}): an answer of {name} has no quality; "
                "score the data first with `jethro data score`"
            )
    return dataset if preferences is None else replace(dataset, preferences=Preferences.load(preferences))


def refuse_leaks(train: Dataset, train_source: str, test: Dataset, test_source: str) -> None:
    """Raises DataError, naming rows of both, if a query of the one is in the other."""
    from serve_app.learning.seen import seen_rows, text_hashes

    hashes = text_hashes(train.queries)
    rows = seen_rows(hashes, test.queries)
    if len(rows):
        i = int(rows[0])
        other = int(np.flatnonzero(hashes == text_hashes(test.queries[i : i + 1])[0])[0])
        raise DataError(
            f"{test_source}, row {i} (id {test.ids[i]!r}): is in {train_source} too, row {other} (id "
            f"{train.ids[other]!r}), and so are {len(rows) - 1:,} more; split the data with `jethro data split`"
        )
