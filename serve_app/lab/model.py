"""The lab's three model sizes, Llama-style decoders in Hugging Face's format, and their character tokenizer.

One token is one character of lower-cased printable ASCII (or a line feed); anything else becomes
the unknown token. Roles are single special tokens, so a short query costs three tokens more than
its letters.
"""

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serve_app.lab.tasks import LEVELS

CONTEXT_TOKENS = 512
"""Positions of the models, prompt and answer together."""

PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
SPECIALS = (PAD, BOS, EOS, UNK, *ROLES.values())
"""Special tokens; the position of each is its id."""

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127) if chr(code) not in ascii_uppercase)
VOCABULARY = (*SPECIALS, *CHARACTERS)

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- set content = message.content if message.content else '' %}
{%- if message.role == 'assistant' %}
{{- '<|assistant|>' + content + eos_token }}
{%- elif message.role == 'system' or message.role == 'developer' %}
{{- '<|system|>' + content }}
{%- elif message.role == 'user' %}
{{- '<|user|>' + content }}
{%- elif message.role == 'tool' %}
{{- '<|tool|>' + content }}
{%- else %}
{{- raise_exception('role ' + message.role + ' is unknown: use system, user, assistant or tool') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready for `save_pretrained`."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    specials: dict[str, Any] = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(ROLES.values()),
        **specials,
    )


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
    special = {
        f"{name}_token_id": VOCABULARY.index(token) for name, token in (("pad", PAD), ("bos", BOS), ("eos", EOS))
    }
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
        **special,
        dtype="float32",
        architectures=["LlamaForCausalLM"],
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special, do_sample=False)
    return model
