"""Texts that are nearly the same: the pairs whose character 5-grams overlap by at least a threshold (Jaccard).

Exact, not sampled: prefix filtering finds every such pair (Chaudhuri et al. 2006, "A primitive operator for similarity
joins"; Bayardo et al. 2007, "Scaling up all pairs similarity search"). With a text's grams in order of rarity, two
texts of overlap t share one among the first n - ceil(t n) + 1 of each, so only texts that share a rare gram are
compared. That a split never separates near-duplicates is then certain, which sketches such as MinHash cannot promise.

Also fingerprints of the queries that a router has learned from: hashes of their normalised texts, kept in the artefact,
so that it is never measured on them. They find equal texts, not near-duplicates.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import read_arrays
from serve_app.errors import reading
from serve_app.files import replacing
from serve_app.types import Query

THRESHOLD: Final = 0.8
"""Measured: 99.5 % of one-word edits of MMLU's prompts lie above it and 99.8 % of GSM8K's, while the lab's queries,
short and differing in numbers alone, stay apart: of 7,009 distinct ones 487 have a near-duplicate, and the largest
component has 4. In a text of a few words one other word is another question, and is treated as one."""
_GRAM: Final = 5
_INSTRUCTIONS: Final = ("system", "developer")
_MEANING: Final = frozenset("*/%-&@#\\")
"""Punctuation, in Unicode's sense, that carries meaning in sums and code; other punctuation is dropped."""
_AT_ONCE: Final = 1_000_000
"""Candidate pairs compared in one go; bounds memory, not results."""
_BITS: Final = 1024

Ints = NDArray[np.int64]


def compared(query: Query) -> str:
    """What is compared of a query: the conversation without instructions, which many queries have in common."""
    said = [m.content for m in query.messages if m.role not in _INSTRUCTIONS]
    return "\n".join(said) if said else query.text


def normalise(text: str) -> str:
    """The text without case, accents' encoding, punctuation and spacing; signs of arithmetic stay, set apart."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_SIGNS).split())


class _Signs(dict[int, str]):
    """The replacement of each character in a normalised text, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)[0]
        sign = f" {char} " if char in _MEANING or kind == "S" else " " if kind in "PZC" else char
        self[code] = sign
        return sign


_SIGNS: Final = _Signs()


def components(texts: Sequence[str], threshold: float = THRESHOLD) -> Ints:
    """Labels of shape [n]: two texts have the same if a chain of near-duplicates joins them.

    Raises ValueError for a threshold outside (0, 1].
    """
    pairs = [*similar_pairs(texts, threshold), np.empty((0, 2), dtype=np.int64)]
    return connected(np.concatenate(pairs), len(texts))


def connected(pairs: Ints, n: int) -> Ints:
    """Labels of shape [n] of the parts that `pairs` of shape [m, 2] join."""
    from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    edges = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels: Ints = connected_components(edges, directed=False)[1].astype(np.int64)
    return labels


def similar_pairs(texts: Sequence[str], threshold: float = THRESHOLD) -> Iterator[Ints]:
    """Pairs (i, j) of near-duplicates, in pieces of shape [m, 2].

    Texts that are equal when normalised form a chain, each with the one before it, and only the first of them is
    compared with others; so the pairs join what belongs together, and are not all that there are.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"the threshold of near-duplicates is {threshold}, not in (0, 1]")
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    equal = []
    for i, text in enumerate(map(normalise, texts)):
        first.setdefault(text, i)
        if text in last:
            equal.append((last[text], i))
        last[text] = i
    if equal:
        yield np.array(equal, dtype=np.int64)
    places = np.array(list(first.values()), dtype=np.int64)
    for found in _similar(_Grams.of(list(first)), threshold):
        yield places[found]


@dataclass(frozen=True, slots=True)
class _Grams:
    """Grams of n texts as numbers, rarest first: text i has `ranks[starts[i]:starts[i + 1]]`, ascending."""

    ranks: Ints
    starts: Ints

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Grams":
        hashes, owners = _hashed(texts)
        names, numbers, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        # a gram counts once in a text
        pairs = np.unique(owners * len(names) + numbers) if len(names) else np.empty(0, dtype=np.int64)
        owners, numbers = np.divmod(pairs, max(len(names), 1))
        rarity = np.empty(len(names), dtype=np.int64)
        rarity[np.lexsort((names, counts))] = np.arange(len(names))
        ranks = rarity[numbers]
        order = np.lexsort((ranks, owners))
        starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(texts)))]).astype(np.int64)
        return cls(ranks[order], starts)

    @property
    def sizes(self) -> Ints:
        return np.diff(self.starts)

    def parity(self) -> NDArray[np.uint64]:
        """For each text and each residue of `_BITS`, whether its grams there are odd in number; bits, [n, words]."""
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        word, bit = np.divmod(self.ranks % _BITS, 64)
        parity = np.zeros((len(self.sizes), _BITS // 64), dtype=np.uint64)
        np.bitwise_xor.at(parity, (owners, word), np.uint64(1) << bit.astype(np.uint64))
        return parity

    def matrix(self) -> Any:
        """Sparse [n, grams] of ones."""
        from scipy.sparse import csr_matrix

        width = int(self.ranks.max(initial=-1)) + 1
        return csr_matrix((np.ones(len(self.ranks), dtype=np.int32), self.ranks, self.starts), (len(self.sizes), width))


def _hashed(texts: Sequence[str]) -> tuple[NDArray[np.uint64], Ints]:
    """64-bit hashes of all grams of all texts, and whose they are.

    Texts are padded on both sides, so that every character is in `_GRAM` grams and an edit at the end counts in full.
    """
    edge = "\0" * (_GRAM - 1)
    padded = [f"{edge}{text}{edge}" for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if not len(codes):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    rolling = np.zeros(len(codes) - _GRAM + 1, dtype=np.uint64)
    for k in range(_GRAM):  # 21 bits hold a code point: xor of multiples by odd constants keeps grams apart
        rolling = (rolling ^ codes[k : len(codes) - _GRAM + 1 + k]) * np.uint64(0x9E3779B97F4A7C15)
        rolling ^= rolling >> np.uint64(29)
    owners = np.repeat(np.arange(len(texts)), lengths)
    ends = np.cumsum(lengths)
    inside = np.arange(len(codes)) <= np.repeat(ends, lengths) - _GRAM
    at = np.flatnonzero(inside)
    return rolling[at], owners[at]


def _similar(grams: _Grams, threshold: float) -> Iterator[Ints]:
    """All pairs of texts with at least this overlap, in pieces of shape [m, 2].

    Overlap t means that at most (1 - t) / (1 + t) of both texts' grams are in one alone. Gram by gram modulo
    `_BITS`, a bit that differs in parity stands for at least one such, so the count of those bits refutes most pairs.
    """
    sizes, matrix, parity = grams.sizes, grams.matrix(), grams.parity()
    for pairs in _candidates(grams, threshold):
        both = sizes[pairs].sum(axis=1)
        apart = np.bitwise_count(parity[pairs[:, 0]] ^ parity[pairs[:, 1]]).sum(axis=1, dtype=np.int64)
        left, right = pairs[apart <= (1 - threshold) / (1 + threshold) * both + 1e-9].T
        shared = np.asarray(matrix[left].multiply(matrix[right]).sum(axis=1)).ravel()
        near = shared >= threshold * (sizes[left] + sizes[right] - shared) - 1e-9
        yield np.stack([left[near], right[near]], axis=1)


def _candidates(grams: _Grams, threshold: float) -> Iterator[Ints]:
    """Pairs that share a gram of their prefixes and whose sizes allow the overlap, each piece without repeats."""
    sizes = grams.sizes
    prefix = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    owners = np.repeat(np.arange(len(sizes)), sizes)
    leading = np.arange(len(owners)) - grams.starts[owners] < prefix[owners]
    ranks, owners = grams.ranks[leading], owners[leading]
    order = np.lexsort((owners, sizes[owners], ranks))  # by gram, then short texts first
    ranks, owners = ranks[order], owners[order]
    waiting: list[Ints] = []
    held = 0
    for group in np.split(owners, np.flatnonzero(np.diff(ranks)) + 1):
        if len(group) < 2:
            continue
        reach = np.searchsorted(sizes[group], sizes[group] / threshold + 1e-9, side="right")
        for at in range(len(group) - 1):
            others = group[at + 1 : reach[at]]
            if len(others):
                waiting.append(np.stack([np.minimum(group[at], others), np.maximum(group[at], others)], axis=1))
                held += len(others)
            if held >= _AT_ONCE:
                yield np.unique(np.concatenate(waiting), axis=0)
                waiting, held = [], 0
    if waiting:
        yield np.unique(np.concatenate(waiting), axis=0)


FINGERPRINTS: Final = "seen.npz"
Hashes = NDArray[np.uint64]


def text_hashes(queries: Sequence[Query]) -> Hashes:
    """A hash of each query's normalised text (see `near_duplicates.normalise`), shape [n]."""
    texts = [normalise(q.text).encode("utf-8", "surrogatepass") for q in queries]
    found = [blake2b(text, digest_size=8, person=b"jethro-seen").digest() for text in texts]
    return np.frombuffer(b"".join(found), dtype=">u8").astype(np.uint64)


def save_fingerprints(folder: Path, queries: Sequence[Query], before: Hashes | None = None) -> None:
    """Write the hashes of the queries that a router was fitted on or calibrated with; `before` are added to them."""
    hashes = text_hashes(queries) if before is None else np.concatenate([before, text_hashes(queries)])
    with replacing(folder / FINGERPRINTS) as part, part.open("wb") as out:
        np.savez_compressed(out, hashes=np.unique(hashes))


def load_fingerprints(folder: Path) -> Hashes | None:
    """The hashes saved in a folder; None if there are none. Raises ConfigError for a file that cannot be read."""
    path = folder / FINGERPRINTS
    with reading(path, "train the router again", ValueError, KeyError):
        return np.asarray(read_arrays(path)["hashes"], dtype=np.uint64) if path.exists() else None


def known_rows(known: Hashes, queries: Sequence[Query]) -> NDArray[np.int64]:
    """Positions of the queries whose text is among the hashes."""
    return np.flatnonzero(np.isin(text_hashes(queries), known))
