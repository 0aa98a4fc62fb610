"""Array types, and npz files read whole with one kind of error for every fault."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HEADER = (tokenize.TokenError, SyntaxError, RecursionError, MemoryError)
"""What numpy lets through of an array's header that is no Python literal, or of a shape beyond all memory."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file. Raises FileNotFoundError, or ValueError for a file that is cut or no npz."""
    with path.open("rb") as raw:
        try:
            with np.load(raw, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, *_HEADER) as e:
            raise ValueError(f"not a whole npz file: {e}") from e
