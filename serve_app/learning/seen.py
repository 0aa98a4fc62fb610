"""Which queries a router has learned from: hashes of their texts in the artefact, so that nobody measures on them.

Not for near-duplicates: a hash knows texts that are equal when normalised.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.arrays import read_arrays
from serve_app.learning.near_duplicates import normalise
from serve_app.types import Query

FILE = "seen.npz"
Hashes = NDArray[np.uint64]


def text_hashes(queries: Sequence[Query]) -> Hashes:
    """A hash of each query's normalised text (see `near_duplicates.normalise`), shape [n]."""
    texts = [normalise(q.text).encode("utf-8", "surrogatepass") for q in queries]
    found = [blake2b(text, digest_size=8, person=b"jethro-seen").digest() for text in texts]
    return np.frombuffer(b"".join(found), dtype=">u8").astype(np.uint64)


def save_seen(folder: Path, queries: Sequence[Query], before: Hashes | None = None) -> None:
    """Write the hashes of the queries that a router was fitted on or calibrated with; `before` are added to them."""
    hashes = text_hashes(queries) if before is None else np.concatenate([before, text_hashes(queries)])
    draft = folder / f".{FILE}-{os.getpid()}"
    with draft.open("wb") as out:
        np.savez_compressed(out, hashes=np.unique(hashes))
    draft.replace(folder / FILE)


def load_seen(folder: Path) -> Hashes | None:
    """The hashes saved in a folder; None if there are none. Raises ConfigError for a file that cannot be read."""
    try:
        return np.asarray(read_arrays(folder / FILE)["hashes"], dtype=np.uint64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as e:
        raise ConfigError(f"{folder / FILE}: cannot be read ({e}); train the router again") from e


def seen_rows(seen: Hashes, queries: Sequence[Query]) -> NDArray[np.int64]:
    """Positions of the queries whose text is among the hashes."""
    return np.flatnonzero(np.isin(text_hashes(queries), seen))
