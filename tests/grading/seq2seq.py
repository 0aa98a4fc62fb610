"""Tiny encoder-decoders with random weights, made on the spot: BART and T5 as their configs define them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "road", "far", "away", "red", "big")


def save_bart(folder: Path) -> Path:
    """BART: ids 0 <s>, 1 <pad>, 2 </s>, 3 <unk>; a target is `<s> ... </s>`, its decoder starts with </s>."""
    _seed()
    config = BartConfig(
        vocab_size=4 + len(WORDS), d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=24,
        init_std=0.5, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder, ("<s>", "<pad>", "</s>", "<unk>"), "<s> $A </s>")
    return folder


def save_t5(folder: Path) -> Path:
    """T5: ids 0 <pad>, 1 </s>, 2 <unk>; a target is `... </s>`, its decoder starts with <pad>."""
    _seed()
    config = T5Config(
        vocab_size=3 + len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=2, num_heads=2,
        initializer_factor=2.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder, ("<pad>", "</s>", "<unk>"), "$A </s>")
    return folder


def save_tokenizer(folder: Path, special: tuple[str, ...], template: str | None) -> None:
    """A tokenizer of whole words with the model's special tokens around them, none without a template."""
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        around = [(token, vocabulary[token]) for token in special if token in template.split()]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def _seed() -> None:
    torch.manual_seed(7)
