"""A small BERT with random weights, and word pieces learned from the texts that it will be trained on.

For text unlike the data of pretrained encoders (sums, codes, identifiers). Its digits are separate tokens, so that a
number's size shows in its length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.errors import ConfigError

SMALL = "small-from-scratch"
"""The name of the default shape."""
_SHAPE = re.compile(r"scratch-(\d+)x(\d+)")
_PIECES = 800
"""Word pieces at most."""
_MIN_TEXTS = 8
"""Texts in which a word must come to be one piece: of fewer, little could be learned about it."""
_HEAD_WIDTH = 32
_ENDS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers and width of the encoder; `scratch-2x128` by name."""

    layers: int = 2
    width: int = 128

    @classmethod
    def named(cls, name: str) -> Shape | None:
        """The shape in an encoder's name; None for other names."""
        if name == SMALL:
            return cls()
        found = _SHAPE.fullmatch(name)
        if found is None:
            return None
        shape = cls(int(found[1]), int(found[2]))
        if not (1 <= shape.layers <= 12 and shape.width % _HEAD_WIDTH == 0 and 32 <= shape.width <= 768):
            raise ConfigError(f"encoder {name!r}: give 1 to 12 layers and a width of 32 to 768, a multiple of 32")
        return shape


def learned_tokenizer(texts: Sequence[str]) -> Any:
    """Frequent words are one piece, others are spelled; lower case; digits and signs are separate.

    Deterministic, unlike the library's own trainers.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d|[^\w\s]|_"), "isolated")]
    )
    seen: Counter[str] = Counter()
    for text in texts:
        readable = normalizer.normalize_str(text.encode("utf-8", "replace").decode())
        seen.update({word for word, _ in splitter.pre_tokenize_str(readable)})
    vocabulary = {piece: number for number, piece in enumerate(_pieces(seen))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_ENDS["unk"], max_input_chars_per_word=1_000))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(_ENDS[end], vocabulary[_ENDS[end]]) for end in ("cls", "sep")]
    )
    return as_transformers(tokenizer, PreTrainedTokenizerFast)


def _pieces(seen: Counter[str]) -> list[str]:
    """Specials, printable ASCII and other frequent characters (alone, and within a word), and frequent words."""
    ranked = sorted(seen, key=lambda word: (-seen[word], word))
    often = [word for word in ranked if seen[word] >= _MIN_TEXTS]
    ascii_signs = sorted({chr(code).lower() for code in range(33, 127)})
    characters = list(dict.fromkeys([*ascii_signs, *(c for word in often for c in word)]))[:_PIECES]
    within = [f"##{c}" for c in characters if c.isalpha()]
    words = [word for word in often if len(word) > 1]
    return [*_ENDS.values(), *characters, *within, *words[: max(0, _PIECES - len(characters) - len(within))]]


def as_transformers(tokenizer: Any, kind: Any) -> Any:
    """The tokenizer as transformers takes it; a long text keeps its end."""
    return kind(
        tokenizer_object=tokenizer, truncation_side="left", **{f"{end}_token": token for end, token in _ENDS.items()}
    )


def fresh_encoder(shape: Shape, pieces: int, max_tokens: int, seed: int) -> Any:
    """A BERT of that shape with random weights: the same seed gives the same."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=pieces,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // _HEAD_WIDTH,
        intermediate_size=2 * shape.width,
        max_position_embeddings=max_tokens,
        type_vocab_size=1,
        pad_token_id=0,
        initializer_range=shape.width**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(config, add_pooling_layer=False)
