"""The lab's three model sizes: Llama-style decoders that any engine loads as ordinary HF models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from serve_app.lab.tasks import LEVELS
from serve_app.lab.tokenizer import BOS, CONTEXT_TOKENS, EOS, PAD, VOCABULARY


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Shape of one model and how it is trained; heads are 32 wide, which both engines' attention kernels support."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    train_tokens: int
    hardest: int = LEVELS[-1]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.hidden // HEAD_DIM


HEAD_DIM = 32

SIZES = {
    "tiny": ModelSize("tiny", hidden=32, layers=2, intermediate=64, train_tokens=30_000_000, hardest=2),
    "small": ModelSize("small", hidden=32, layers=3, intermediate=96, train_tokens=50_000_000, hardest=3),
    "large": ModelSize("large", hidden=128, layers=4, intermediate=320, train_tokens=60_000_000),
}
"""The pair and a third that is weaker than both, by name, with the token budget of training.

`tiny` serves no query by default: with it there are three pairs, of a small, a middle and a large gap.
"""


def new_model(size: ModelSize, seed: int) -> LlamaForCausalLM:
    """A freshly initialised float32 model with tied embeddings; the seed sets its weights."""
    special = {name: VOCABULARY.index(token) for name, token in (("pad", PAD), ("bos", BOS), ("eos", EOS))}
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=size.hidden**-0.5 / 2,
        pad_token_id=special["pad"],
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        dtype="float32",
        architectures=["LlamaForCausalLM"],
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=special["pad"], bos_token_id=special["bos"], eos_token_id=special["eos"], do_sample=False
    )
    return model
