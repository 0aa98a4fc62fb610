"""What the layers in the middle of an encoder know of a text: means of their token vectors, whole and at its end.

The last layer of a sentence encoder is trained to say what a text is about. How hard it is, its kind and its wording,
are read better from the layers below (Jawahar et al. 2019: surface and syntax there, meaning at the top); and the end
of a prompt is mostly what is asked.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np

from serve_app.learning.encoder import SentenceEncoder, Vectors, load_encoder

DEPTHS = (1 / 3, 2 / 3)
"""Layers, as shares of the encoder's depth: 2 and 4 of the default encoder's 6."""
END = 16
"""Tokens that count as the end of a text."""
_CACHED = 20_000
"""Texts kept, 6 kB each with the default encoder."""


class LayerViews:
    """Mean token vectors of some layers, over the whole text and over its last tokens, beside one another.

    One pass gives the sentence vector too, and the encoder keeps it: routers that read that pay nothing more.
    Safe to call from several threads; one computes.
    """

    def __init__(self, encoder: SentenceEncoder, depths: Sequence[float] = DEPTHS, end: int = END) -> None:
        self.encoder = encoder
        self.depths = tuple(depths)
        self.end = end
        self._kept: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

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
        with self._lock:
            missing = list(dict.fromkeys(t for t in texts if t not in self._kept))
            found = self._compute(missing)
            rows = [found[t] if t in found else self._kept[t] for t in texts]
            self._kept.update(found)
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)
        return np.stack(rows) if rows else np.zeros((0, self.columns), dtype=np.float32)

    def _compute(self, texts: list[str]) -> dict[str, Vectors]:
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
        return found


_views: dict[str, LayerViews] = {}
_loading = Lock()


def layer_views(name: str) -> LayerViews:
    """The views of an encoder with their cache, one for the whole process. Raises what `load_encoder` raises."""
    with _loading:
        if name not in _views:
            _views[name] = LayerViews(load_encoder(name))
        return _views[name]
