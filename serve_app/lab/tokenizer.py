"""The lab's character tokenizer, in Hugging Face's format, with its chat template.

One token is one character of lower-cased printable ASCII (or a line feed); anything else becomes
the unknown token. Roles are single special tokens, so a short query costs three tokens more than
its letters.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

CONTEXT_TOKENS = 512
"""Positions of the models, prompt and answer together."""

PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"
ROLES = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|tool|>",
}
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
    core = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(VOCABULARY)}, merges=[], unk_token=UNK)
    )
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
