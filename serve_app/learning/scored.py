"""What a router asks of a dataset before it learns: queries, the pair of pools, and a score for every answer."""

from collections.abc import Collection

import numpy as np

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset

PAIR = ("small", "large")


def check_scored(dataset: Dataset, router: str, pools: Collection[str] | None = None) -> None:
    """Raises ConfigError, naming the router, for no queries, no `small` or `large`, or an answer without quality.

    Answers of `pools` are looked at, by default of all.
    """
    if len(dataset) == 0:
        raise ConfigError(f"{router}: the dataset is empty; collect answers first")
    missing = [pool for pool in PAIR if pool not in dataset.pools]
    if missing:
        raise ConfigError(f"{router}: the dataset has no pool {missing[0]!r}; collect its answers")
    for pool in dataset.pools if pools is None else pools:
        unscored = np.isnan(dataset.pools[pool].quality).any(1)
        if unscored.any():
            row = dataset.ids[int(np.argmax(unscored))]
            raise ConfigError(f"{router}: row {row!r} of pool {pool} is not scored; score the dataset")
