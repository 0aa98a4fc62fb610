"""What a level knew before the labels changed, mapped to the labels since.

Labels change by being renamed, merged or split more often than by losing all meaning, and then the old classifier still
tells the texts apart. So its logits are taken for features of the new labels: matrix scaling (Guo, Pleiss, Sun,
Weinberger, ICML 2017, section 4.2), fitted on the few labels since the change and shrunk to the identity, by which
what has not changed stays. The result is the mean of the prior over the new weights, which more labels correct.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.online.levels import softmax

RIDGE = 2.0
"""L2 of the map's distance to the identity, against the sum of the losses."""
STEPS = 60
"""Of Böhning's method (see `encoded`), which needs no step size."""
MOST = 1_000
"""Newest labels that the map is fitted on: it has few numbers."""

Floats = NDArray[np.float64]


def carried(before: Floats, rows: Floats, labels: NDArray[np.int64]) -> Floats:
    """Weights [dimensions + 1, labels] from those of `before` the change and `rows` [n, dimensions + 1] since it."""
    rows, labels = rows[-MOST:], labels[-MOST:]
    told = before - before.mean(axis=1, keepdims=True)
    features = np.column_stack([rows @ told, np.ones(len(rows))])
    wanted = np.eye(before.shape[1])[labels]
    start = np.eye(features.shape[1], before.shape[1])
    mapping = start.copy()
    inverse = np.linalg.inv(features.T @ features / 2 + RIDGE * np.eye(len(start)))
    for _ in range(STEPS):
        gradient = features.T @ (softmax(features @ mapping) - wanted) + RIDGE * (mapping - start)
        mapping = mapping - inverse @ gradient
    found: Floats = told @ mapping[:-1]
    found[-1] += mapping[-1]
    return found
