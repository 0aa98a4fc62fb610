"""Which queries a router has learned from: hashes of their texts in the artefact, so that nobody measures on them.

Not for near-duplicates: a hash knows equal texts only, up to case and white space.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.arrays import read_arrays
from serve_app.types import Query

FILE = "seen.npz"
Hashes = NDArray[np.uint64]


def text_hashes(queries: Sequence[Query]) -> Hashes:
    """A hash of each query's text, shape [n]; case and white space do not count."""
    found = [blake2b(_normal(q.text), digest_size=8, person=b"jethro-seen").digest() for q in queries]
    return np.frombuffer(b"".join(found), dtype=">u8").astype(np.uint64)


def save_seen(folder: Path, queries: Sequence[Query]) -> None:
    """Write the hashes of the queries that a router was fitted on or calibrated with."""
    with (folder / FILE).open("wb") as out:
        np.savez_compressed(out, hashes=np.unique(text_hashes(queries)))


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


def _normal(text: str) -> bytes:
    return " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
