"""What a router asks of a dataset before it learns: queries, the pair of pools, and a score for every answer."""

import numpy as np

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset


def check_scored(dataset: Dataset, router: str) -> None:
    """Raises ConfigError, naming the router, for no queries, no `small` or `large`, or an answer without quality."""
    if len(dataset) == 0:
        raise ConfigError(f"{router}: the dataset is empty; collect answers first")
    missing = [pool for pool in ("small", "large") if pool not in dataset.pools]
    if missing:
        raise ConfigError(f"{router}: the dataset has no pool {missing[0]!r}; collect its answers")
    for pool, answers in dataset.pools.items():
        unscored = np.isnan(answers.quality).any(1)
        if unscored.any():
            row = dataset.ids[int(np.argmax(unscored))]
            raise ConfigError(f"{router}: row {row!r} of pool {pool} is not scored; score the dataset")
