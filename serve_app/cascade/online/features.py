"""Hashed n-gram features of a text: nothing is fitted, so nothing of the stream is seen before its time.

Words and pairs of words are hashed to a fixed number of columns (Weinberger et al., ICML 2009, "Feature hashing for
large scale multitask learning", without the sign), weighted 1 + log(count), at unit length.
"""

import re
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

COLUMNS = 2**15
"""Collisions among a stream's few ten thousand n-grams cost less than a larger matrix does to publish."""
_MOST_WORDS = 2_000
"""Words of a text that are read."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

Sparse = NDArray[np.float32]
"""[2, features]: columns (whole numbers, exact in float32), then weights."""


def hashed(text: str) -> Sparse:
    """The features of a text; none for a text without words."""
    words = _WORD.findall(text.lower())[:_MOST_WORDS]
    counts = Counter(words)
    counts.update(f"{a} {b}" for a, b in pairwise(words))
    weights: dict[int, float] = {}
    for gram, count in counts.items():
        column = zlib.crc32(gram.encode("utf-8", "surrogatepass")) % COLUMNS
        weights[column] = weights.get(column, 0.0) + 1.0 + float(np.log(count))
    found = np.array([list(weights), list(weights.values())], dtype=np.float32).reshape(2, -1)
    if found.shape[1]:
        found[1] /= np.linalg.norm(found[1])
    return found
