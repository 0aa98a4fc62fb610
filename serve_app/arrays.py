"""Array types, sigmoid, softmax and Wilson's interval; npz files read whole with one kind of error for every fault."""

import tokenize
import zipfile
import zlib
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""

_HEADER = (tokenize.TokenError, SyntaxError, RecursionError, MemoryError)
"""What numpy lets through of an array's header that is no Python literal, or of a shape beyond all memory."""


def sigmoid(x: Floats | float) -> Floats:
    """1 / (1 + exp(-x)), without overflow; the shape of `x`."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x))), dtype=np.float64)


def softmax(logits: NDArray[Any]) -> Floats:
    """Along the last axis, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    total: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return total


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share, `hits` of `n` (Wilson 1927), in [0, 1]; all of it where n is 0."""
    if not n:
        return 0.0, 1.0
    share, z2 = hits / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file. Raises FileNotFoundError, or ValueError for a file that is cut or no npz."""
    with path.open("rb") as raw:
        try:
            with np.load(raw, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, *_HEADER) as e:
            raise ValueError(f"not a whole npz file: {e}") from e
