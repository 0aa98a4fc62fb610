"""Texts to class probabilities by a fine-tuned encoder, for Hybrid LLM's routers and RouteLLM's `bert`.

The encoder is a pretrained one, of which only the changed tensors are stored with its name and digest; or a small BERT
trained from scratch on the queries, with word pieces learned from them. That one is for traffic unlike the data of
sentence encoders (sums, codes, identifiers), and for artefacts of a few hundred kilobytes. Its digits are separate
tokens, so that a number's size shows in its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.errors import ConfigError, reading
from serve_app.learning.encoder import DEFAULT, TextCache, load_encoder, narrowed, saved_encoder
from serve_app.learning.scratch_encoder import Shape, as_transformers, fresh_encoder, learned_tokenizer
from serve_app.routing.base import Report, largest_first
from serve_app.routing.kinds.fine_tuned.finetune import Recipe, finetune
from serve_app.routing.kinds.fine_tuned.text_network import TextNetwork

WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
_ROWS = 32
"""Texts in one pass; those of similar length together."""
_CACHED = 50_000
"""Results kept by text."""
_NAME = 60
"""Characters of a part that name it in an explanation."""
_PARTS = 24
"""Pieces of a text that are left out in turn to explain its score."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Which encoder, how much of it is trained (None: all; a fresh one always is), and how many tokens it reads."""

    encoder: str = DEFAULT
    train_layers: int | None = 2
    max_tokens: int = 256


class TextClassifier:
    """Class probabilities of texts. Learned: `network_`, `weights_`.

    A pretrained encoder's linear layers score in bfloat16 where the CPU has it (see `narrow`). Results are kept by
    text. Safe to call from several threads; one computes, with torch's number of threads.
    """

    def __init__(self, setting: Setting, classes: int, network: TextNetwork, encoder_digest: str | None) -> None:
        self.setting = setting
        self.classes = classes
        self.network_ = network
        self.encoder_digest = encoder_digest
        """Of the pretrained encoder below; None for one trained from nothing."""
        self.weights_ = {name: p.detach().half().contiguous() for name, p in network.trained().items()}
        """What is stored; the network itself may compute in bfloat16 from here on."""
        if encoder_digest is not None:
            narrowed(network.body)
        self._kept = TextCache(_CACHED)

    @classmethod
    def fit(
        cls,
        setting: Setting,
        texts: Sequence[str],
        labels: Floats,
        recipe: Recipe,
        report: Report,
        checkpoint: Path | None = None,
    ) -> Self:
        """Fine-tune on `labels` of shape [n, classes], each row a distribution; see `finetune` for `checkpoint`."""
        classes = labels.shape[1]
        shape = Shape.named(setting.encoder)
        if shape is None:
            encoder = load_encoder(setting.encoder)
            network = TextNetwork(encoder.folder, classes, setting.train_layers, setting.max_tokens)
            digest = encoder.digest
        else:
            tokenizer = learned_tokenizer(texts)
            body = fresh_encoder(shape, len(tokenizer), setting.max_tokens, recipe.seed)
            network, digest = TextNetwork.of(body, tokenizer, classes, setting.max_tokens), None
        finetune(network, texts, labels, recipe, report, checkpoint)
        _round(network)
        return cls(setting, classes, network, digest)

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Shape [len(texts), classes]; rows add up to 1."""
        return self._kept.rows(texts, self._compute, self.classes, np.float64)

    def explain(self, text: str, column: int) -> dict[str, float]:
        """By how much each part of the text moves the log-odds of a class: with it, less without it; largest first.

        Parts are words, or runs of words where there are many (occlusion: Zeiler & Fergus 2014, section 4.2).
        """
        words = text.split()[-self.setting.max_tokens :]
        if not words:
            return {}
        edges = np.linspace(0, len(words), min(_PARTS, len(words)) + 1).round().astype(int)
        spans = list(pairwise(edges.tolist()))
        without = [" ".join(words[:start] + words[end:]) for start, end in spans]
        odds = [_log_odds(float(row[column])) for row in self.probabilities([text, *without])]
        names = [f"{' '.join(words[start:end])[:_NAME]} (word {start + 1})" for start, end in spans]
        return largest_first({name: odds[0] - other for name, other in zip(names, odds[1:], strict=True)})

    def save(self, directory: Path) -> Mapping[str, Any]:
        """Write the weights (and the tokenizer of a fresh encoder). Returns the fields for the router's JSON."""
        from safetensors.torch import save

        directory.mkdir(parents=True, exist_ok=True)
        # not save_file: it leaves a file that its owner alone may read
        (directory / WEIGHTS).write_bytes(save(self.weights_))
        if self.encoder_digest is None:
            self.network_.tokenizer.backend_tokenizer.save(str(directory / TOKENIZER))
        return {"classes": self.classes, "encoder_digest": self.encoder_digest}

    @classmethod
    def load(cls, directory: Path, setting: Setting, kept: Mapping[str, Any]) -> Self:
        """What `save` wrote. Raises ConfigError naming the file, or an encoder that is not the one trained on."""
        classes, digest = int(kept["classes"]), kept["encoder_digest"]
        shape = Shape.named(setting.encoder)
        if shape is None:
            folder = saved_encoder(directory / "router.json", setting.encoder, str(digest)).folder
            network = TextNetwork(folder, classes, setting.train_layers, setting.max_tokens)
        else:
            tokenizer = _read_tokenizer(directory / TOKENIZER)
            body = fresh_encoder(shape, len(tokenizer), setting.max_tokens, 0)
            network = TextNetwork.of(body, tokenizer, classes, setting.max_tokens)
        _read_weights(directory / WEIGHTS, network)
        return cls(setting, classes, network, digest)

    def _compute(self, texts: list[str]) -> list[Floats]:
        import torch

        tokens = self.network_.tokens(texts)
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        rows: list[Floats] = [np.empty(0)] * len(texts)
        for start in range(0, len(order), _ROWS):
            picked = order[start : start + _ROWS]
            with torch.inference_mode():
                logits = self.network_.logits([tokens[i] for i in picked])
            for i, row in zip(picked, torch.softmax(logits.double(), dim=1).numpy(), strict=True):
                rows[i] = row
        return rows


def _round(network: TextNetwork) -> None:
    """Weights as they are stored, in half precision: a loaded router scores as the fitted one did."""
    for parameter in network.trained().values():
        parameter.data = parameter.data.half().float()


def _read_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with reading(path, "train and save the router again", Exception):  # the library raises bare exceptions
        return as_transformers(Tokenizer.from_str(path.read_text("utf-8")), PreTrainedTokenizerFast)


def _read_weights(path: Path, network: TextNetwork) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with reading(path, "train and save the router again", SafetensorError):
        tensors = load_file(path)
    own = network.trained()
    if {n: tuple(t.shape) for n, t in tensors.items()} != {n: tuple(p.shape) for n, p in own.items()}:
        raise ConfigError(f"{path}: holds other tensors than this router has; train and save the router again")
    for name, parameter in own.items():
        parameter.data.copy_(tensors[name].float())


def _log_odds(p: float) -> float:
    kept = min(max(p, 1e-9), 1 - 1e-9)
    return log(kept / (1 - kept))
