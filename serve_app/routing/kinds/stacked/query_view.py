"""A query as one standardized row: token vectors of an encoder's middle layers, and surface features of the text.

The last layer of a sentence encoder is trained for the topic. Difficulty, kind, and wording are read better from the
layers below (Jawahar et al. 2019: surface and syntax there, meaning at the top), over the whole text and over its end,
which mostly holds the question. The surface features count what a question holds: quantities and their size, relations
between them, new words, names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.learning.encoder import SentenceEncoder, TextCache, Vectors, load_encoder

SURFACE = (
    "chars", "words", "quantities", "sentences", "questions", "commas", "largest", "size", "distinct_words",
    "word_length", "percents", "amounts", "multiples", "rates", "relations", "decimals", "capitals",
)  # fmt: skip
"""Names of the columns of `surface`, in order."""
_TOKEN = re.compile(r"\d[\d,.]*|[A-Za-z]+|[^\sA-Za-z\d]")
_READ = 8_000
"""Characters that are read word by word, the last ones; the length counts them all."""
_LARGEST = 1e15
_MULTIPLES = frozenset(["half", "twice", "third", "quarter", "double", "triple", "times"])
_RATES = frozenset(["each", "every", "per"])
_RELATIONS = frozenset(["if", "then", "than", "more", "less", "remaining", "rest", "total"])


def surface(texts: Sequence[str]) -> Floats:
    """One row a text, shape [len(texts), len(SURFACE)]."""
    return np.array([_read(text) for text in texts], dtype=np.float64).reshape(-1, len(SURFACE))


def _read(text: str) -> tuple[float, ...]:
    part = text[-_READ:]
    tokens = _TOKEN.findall(part)
    words = [t.lower() for t in tokens if t[0].isalpha()]
    quantities = [t.rstrip(".,") for t in tokens if t[0].isdecimal()]
    sizes = [log1p(_value(q)) for q in quantities]
    count = len(words) or 1
    return (
        log1p(len(text)),
        log1p(len(words)),
        log1p(len(quantities)),
        log1p(part.count(".")),
        log1p(part.count("?")),
        log1p(part.count(",")),
        max(sizes, default=0.0),
        sum(sizes) / (len(sizes) or 1),
        len(set(words)) / count,
        sum(map(len, words)) / count,
        log1p(part.count("%")),
        log1p(part.count("$")),
        log1p(sum(w in _MULTIPLES for w in words)),
        log1p(sum(w in _RATES for w in words)),
        log1p(sum(w in _RELATIONS for w in words)),
        log1p(sum("." in q for q in quantities)),
        log1p(sum(t[0].isupper() for t in tokens)),
    )


def _value(quantity: str) -> float:
    """The value of the digits; commas and dots beyond the first are separators."""
    whole, _, rest = quantity.replace(",", "").partition(".")
    return min(float(f"{whole[:16] or 0}.{rest.replace('.', '')[:6] or 0}"), _LARGEST)


_MOST = 5.0
"""Standard deviations that a column may lie from its mean: so that an outlier such as a huge prompt is bounded."""

_SHARES = np.array([0.8, 0.2])
"""Of a row's variance: layers, surface. Few columns that are read off rank well within one kind of task, and mislead
beyond it."""


@dataclass(frozen=True, slots=True)
class QueryView:
    """Columns standardised, clipped, and scaled: the layers' columns together have variance 0.8, the surface's 0.2.

    `mean`, `deviation` and `weight` have shape [columns]; rows have mean squared length 1 where learned. Layers first.
    """

    mean: Floats
    deviation: Floats
    weight: Floats

    @classmethod
    def fit(cls, layers: Vectors, surface: Floats) -> Self:
        """From the views of texts, [n, columns], and their surface, [n, len(SURFACE)]."""
        both = np.concatenate([layers, surface], axis=1)
        mean, deviation = both.mean(0), both.std(0)
        varies = deviation > 1e-9
        blocks = np.repeat([0, 1], [layers.shape[1], surface.shape[1]])
        counts = np.array([max(1, int(varies[blocks == b].sum())) for b in (0, 1)], dtype=np.float64)
        weight = np.where(varies, np.sqrt(_SHARES[blocks] / counts[blocks]), 0.0)
        return cls(mean, np.where(varies, deviation, 1.0), weight)

    def rows(self, layers: Vectors, surface: Floats) -> Vectors:
        """Rows of shape [n, columns]."""
        both = np.concatenate([layers, surface], axis=1)
        rows: Vectors = (np.clip((both - self.mean) / self.deviation, -_MOST, _MOST) * self.weight).astype(np.float32)
        return rows

    def groups(self, views: Sequence[str]) -> list[str]:
        """What each column says something of: the view of a layer, or a name of SURFACE."""
        width = (len(self.mean) - len(SURFACE)) // len(views)
        return [view for view in views for _ in range(width)] + list(SURFACE)

    def arrays(self) -> dict[str, Floats]:
        """For saving."""
        return {"view_mean": self.mean, "view_deviation": self.deviation, "view_weight": self.weight}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], columns: int) -> Self:
        """What `arrays` gave. Raises KeyError or ValueError."""
        found = cls(arrays["view_mean"], arrays["view_deviation"], arrays["view_weight"])
        if any(a.shape != (columns + len(SURFACE),) for a in (found.mean, found.deviation, found.weight)):
            raise ValueError("the views are others than this version's")
        return found


DEPTHS = (1 / 3, 2 / 3)
"""Layers, as shares of the encoder's depth: 2 and 4 of the default encoder's 6."""
END = 16
"""Tokens that count as the end of a text."""
_CACHED = 20_000
"""Texts kept, 6 kB each with the default encoder."""


class LayerViews:
    """Mean token vectors of some layers, over the whole text and over its last tokens, concatenated.

    One pass gives the sentence vector too, and the encoder keeps it: routers that read that pay nothing more.
    Safe to call from several threads; one computes.
    """

    def __init__(self, encoder: SentenceEncoder, depths: Sequence[float] = DEPTHS, end: int = END) -> None:
        self.encoder = encoder
        self.depths = tuple(depths)
        self.end = end
        self._kept = TextCache(_CACHED)

    @property
    def views(self) -> list[str]:
        """Name of each block of `dimensions` columns: `whole` or `end`, for each layer in turn."""
        return ["whole", "end"] * len(self.depths)

    @property
    def columns(self) -> int:
        """Length of a row."""
        return len(self.views) * self.encoder.dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The views of each text, shape [len(texts), columns], at the scale of the encoder."""
        return self._kept.rows(texts, self._compute, self.columns, np.float32)

    def _compute(self, texts: list[str]) -> list[Vectors]:
        import torch

        found: dict[str, Vectors] = {}
        for passed in self.encoder.passes(texts, every_layer=True):
            here = [texts[i] for i in passed.rows]
            at = passed.mask.cumsum(1) - 1
            length = passed.mask.sum(1, keepdim=True)
            # first and last are the encoder's own marks, not the text's
            ending = passed.mask * ((at >= length - 1 - self.end) & (at < length - 1) & (at > 0))
            parts = []
            for depth in self.depths:
                layer = round(depth * (len(passed.layers) - 1))
                parts += [passed.mean(layer), passed.mean(layer, ending)]
            found.update(zip(here, torch.cat(parts, dim=1).numpy(), strict=True))
            self.encoder.remember(here, list(passed.unit()))
        return [found[text] for text in texts]


_views: dict[str, LayerViews] = {}
_loading = Lock()


def layer_views(name: str) -> LayerViews:
    """The views of an encoder with their cache, one for the whole process. Raises what `load_encoder` raises."""
    with _loading:
        if name not in _views:
            _views[name] = LayerViews(load_encoder(name))
        return _views[name]
