"""A sentence encoder in float32: texts to token ids, token ids to unit vectors, as sentence-transformers has them.

Reads a folder in sentence-transformers' format: its pooling (mean or first token), and its window. Vectors always have
unit length. Unlike `learning.encoder`, whose vectors only routers compare, nothing here is rounded to bfloat16, and of
a text beyond the window the beginning is kept.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.engines.embedding.packed import pack
from serve_app.engines.embedding.request import Vectors
from serve_app.errors import ConfigError, needs_extra
from serve_app.learning.encoder import encoder_folder

_POOLINGS: Final = ("mean", "cls")


class EncoderModel:
    """Loads in the constructor. `tokens` and `vectors` may be called from several threads at once.

    Raises ConfigError for a folder that holds no encoder of this kind, DependencyError without the packages.
    """

    def __init__(self, name: str, window: int | None = None) -> None:
        """`window`: most tokens of a text that are read; None: as many as the model was made for."""
        self.folder = encoder_folder(name)
        with needs_extra("the engine `encoder` needs transformers and torch", "encoders"):
            import tokenizers
            import torch
            import transformers
        transformers.utils.logging.disable_progress_bar()
        if not (self.folder / "tokenizer.json").is_file():
            raise ConfigError(f"encoder {name!r}: no tokenizer.json in {self.folder}: save it with a fast tokenizer")
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._torch: Any = torch
        self._model: Any = transformers.AutoModel.from_pretrained(
            self.folder, use_safetensors=True, dtype=torch.float32
        ).eval()
        pack(self._model)
        self._pooling = _pooling(self.folder)
        self.window = _window(self.folder, self._model.config, window)
        self.dimensions = int(self._model.config.hidden_size)
        self.vocabulary = int(self._model.config.vocab_size)
        empty = self._tokenizer.encode("").ids
        self._begin, self._end = (empty[:1], empty[1:]) if len(empty) == 2 else ([], [])

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, as long as the text is."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def complete(self, ids: Sequence[int]) -> list[int]:
        """A caller's token ids, with the model's first and last special token where they are missing."""
        begin = [] if list(ids[: len(self._begin)]) == self._begin else self._begin
        end = [] if list(ids[len(ids) - len(self._end) :]) == self._end else self._end
        return [*begin, *ids, *end]

    def cut(self, ids: list[int]) -> list[int]:
        """The beginning of token ids that are beyond the window, with the model's last token at the end."""
        if len(ids) <= self.window:
            return ids
        return ids[: self.window - len(self._end)] + self._end

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Unit vectors of token ids within the window, shape [len(rows), dimensions], in one pass.

        Rows of one length need no padding; they are cheapest.
        """
        torch = self._torch
        longest = max(map(len, rows))
        padded = any(len(row) < longest for row in rows)
        with torch.inference_mode():
            if padded:
                ids = torch.zeros((len(rows), longest), dtype=torch.int64)
                mask = torch.zeros((len(rows), longest), dtype=torch.int64)
                for at, row in enumerate(rows):
                    ids[at, : len(row)] = torch.tensor(row)
                    mask[at, : len(row)] = 1
            else:
                ids = torch.tensor(rows, dtype=torch.int64)
                mask = torch.ones_like(ids)
            last = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            if self._pooling == "cls":
                pooled = last[:, 0]
            elif padded:
                weights = mask[:, :, None].to(last.dtype)
                pooled = (last * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            else:
                pooled = last.mean(1)
            unit: Vectors = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return unit

    def begin_thread(self, threads: int) -> None:
        """Called once in each thread that computes: the CPU threads that its passes take."""
        self._torch.set_num_threads(threads)


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` of each vector at unit length again; None: unchanged."""
    if dimensions is None or dimensions >= vectors.shape[1]:
        return vectors
    part = vectors[:, :dimensions]
    norms = np.linalg.norm(part, axis=1, keepdims=True)
    shorter: Vectors = (part / np.maximum(norms, np.float32(1e-12))).astype(np.float32)
    return shorter


def _pooling(folder: Path) -> str:
    """How the folder's sentence vectors are made of token vectors; mean where it does not say."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    said = json.loads(file.read_text("utf-8"))
    mode = said.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in said.items()
        if name.startswith("pooling_mode_") and on
    ]  # fmt: skip
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ConfigError(f"{file}: pooling {', '.join(modes) or 'unknown'}: use an encoder of mean or cls pooling")
    return str(modes[0])


def _window(folder: Path, config: Any, requested: int | None) -> int:
    """Tokens that are read of a text. Raises ConfigError for more than the model has positions for."""
    most = int(getattr(config, "max_position_embeddings", 0) or 512)
    if requested is not None and requested > most:
        raise ConfigError(f"engine.window {requested}: {folder.name} has {most} positions: lower it")
    if requested is not None:
        return requested
    file = folder / "sentence_bert_config.json"
    made_for = json.loads(file.read_text("utf-8")).get("max_seq_length") if file.is_file() else None
    return min(most, int(made_for)) if made_for else most
