"""What is left of a dataset once a judge has spoken: rows whose every answer has a quality, the others counted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from serve_app.errors import DataError
from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import Report


def judged_rows(dataset: Dataset, unread: Sequence[str], report: Report) -> Dataset:
    """The rows without a nan in any pool's quality; `unread` are the replies in which no judgement could be read.

    Their number and that of the rows left out are told, and kept in `about["metric_told"]`. Raises DataError, quoting
    a reply, if rows were judged and none is left.
    """
    whole = np.all([np.isfinite(pool.quality).all(axis=1) for pool in dataset.pools.values()], axis=0)
    rows = np.flatnonzero(whole)
    dropped = len(dataset) - len(rows)
    if unread:
        report(f"{dataset.about['metric']}: {len(unread):,} replies hold no judgement; {dropped:,} rows are left out")
    if dropped and not len(rows):
        raise DataError(
            f"no row could be judged: none of {len(dataset):,} has a judgement of all its answers; a reply ends with "
            f"{unread[0].strip()[-80:]!r}: take a model that keeps to the form asked for, or raise max_tokens"
        )
    told = {**dataset.about["metric_told"], "unparsable": len(unread), "dropped": dropped}
    kept = dataset.take(rows)
    return replace(kept, about={**kept.about, "metric_told": told})
