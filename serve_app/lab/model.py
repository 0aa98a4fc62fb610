"""The lab's three model sizes, Llama-style decoders in Hugging Face's format, and their character tokenizer.

One token is one character of lower-cased printable ASCII (or a line feed); anything else becomes
the unknown token. A digit's token also says its place in its number, units to ten thousands, so that
columns line up without counting: 687 is six hundreds, eight tens, seven units. Roles are single special
tokens, so a short query costs three tokens more than its letters.
"""

import re
from dataclasses import dataclass
from string import ascii_uppercase, digits
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serve_app.lab.tasks import LEVELS, TASKS

CONTEXT_TOKENS = 512
"""Positions of the models, prompt and answer together."""

PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
SPECIALS = (PAD, BOS, EOS, UNK, *ROLES.values())
"""Special tokens; the position of each is its id."""

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127) if chr(code) not in ascii_uppercase)
PLACES = 5
"""Places of a digit with tokens of their own: units to ten thousands, which digits further left share."""
_PLACED = {
    (digit, place): chr(0x1D7CE + 10 * (place - 1) + int(digit)) for place in range(1, PLACES) for digit in digits
}
"""The character of a digit at a place left of the units, out of Unicode's mathematical digits (units stay ASCII)."""

VOCABULARY = (*SPECIALS, *CHARACTERS, *_PLACED.values())

_TYPED = {"\u00d7": "*", "\u2212": "-", "\u2013": "-", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'}
"""What people's keyboards and editors write for a sign of ASCII."""

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


_LEFTMOST_FIRST = sorted(_PLACED.items(), key=lambda entry: -entry[0][1])


def _follows(digit: str, place: int) -> str:
    """Pattern of a digit with that many further digits behind it; those to its left are already marked."""
    return rf"{digit}(?=[0-9{''.join(_PLACED.values())}]{{{place}}})"


_NUMBER = re.compile("[0-9]+")


def mark_places(text: str) -> str:
    """Lower-case ASCII text with each digit as its token's character, as the tokenizer does it."""
    return _NUMBER.sub(lambda found: _marked(found[0]), text)


def _marked(number: str) -> str:
    last = len(number) - 1
    places = (min(last - index, PLACES - 1) for index in range(last + 1))
    return "".join(_PLACED.get((digit, place), digit) for digit, place in zip(number, places, strict=True))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready for `save_pretrained`."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    core.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),  # plain digits of whatever else counts as a digit, mathematical ones too
            normalizers.Lowercase(),
            *(normalizers.Replace(written, sign) for written, sign in _TYPED.items()),
            *(normalizers.Replace(Regex(_follows(digit, place)), mark) for (digit, place), mark in _LEFTMOST_FIRST),
        ]
    )
    core.decoder = decoders.Sequence(
        [*(decoders.Replace(mark, digit) for (digit, _), mark in _PLACED.items()), decoders.Fuse()]
    )
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
    tasks: tuple[str, ...] = tuple(TASKS)

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.hidden // HEAD_DIM


HEAD_DIM = 32
_LIKENESS = 1.5
"""Factor on the first weights of queries and keys."""


def _specialist(name: str, *tasks: str) -> ModelSize:
    """A model that knows some of the tasks, at every size, and says of the others that it does not."""
    return ModelSize(name, hidden=64, layers=4, intermediate=192, train_tokens=12_000_000, tasks=(*tasks, "other"))


SIZES = {
    "tiny": ModelSize("tiny", hidden=32, layers=2, intermediate=64, train_tokens=20_000_000, hardest=2),
    "small": ModelSize("small", hidden=64, layers=3, intermediate=80, train_tokens=42_000_000, hardest=3),
    "large": ModelSize("large", hidden=128, layers=5, intermediate=384, train_tokens=95_000_000),
    "numbers": _specialist("numbers", "add", "subtract", "multiply", "expression", "steps", "units"),
    "letters": _specialist("letters", "reverse", "count", "roman"),
    "lists": _specialist("lists", "sort", "largest", "calendar"),
}
"""The pair, a third that is weaker than both, and three specialists, by name, with the token budget of training.

`tiny` serves no query by default: with it there are three pairs, of a small, a middle and a large gap. The specialists
are the members of the lab's ensemble.
"""


def new_model(size: ModelSize, seed: int) -> LlamaForCausalLM:
    """A freshly initialised float32 model with tied embeddings; the seed sets its weights.

    Queries and keys begin with the same weights, so that like attends to like (mimetic initialization, Trockman &
    Kolter 2023, arXiv 2305.09828).
    """
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
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.q_proj.weight.mul_(_LIKENESS)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
    model.generation_config = GenerationConfig(**special, do_sample=False)
    return model
