"""A model's vocabulary as the grammar engine sees it: the bytes of every token, and bytes that no token writes.

A vocabulary of characters may lack some: the lab's has no capital letters. Where a grammar leaves nothing else, such as
in a property's name, the missing byte is written nevertheless, by a token beyond the model's vocabulary; the model
reads its unknown token in that place. A byte-level vocabulary lacks none.
"""

from collections.abc import Sequence
from typing import Any

import llguidance.hf
from llguidance import LLTokenizer, TokenizerWrapper

from serve_app.engines.transformers.text import decoder
from serve_app.errors import ConfigError

_SAMPLE = '{"name": "value 12, x_y-z", "list": [1, 20.5, true, null]}'


class Vocabulary:
    """Tokens of one loaded tokenizer. `size` counts the model's own; further ids, up to `extended`, are missing bytes.

    Raises ConfigError for a tokenizer whose tokens have no bytes of their own: its model cannot be guided.
    """

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError("the tokenizer has no fast version, which guided decoding reads its tokens from")
        self.size = len(tokenizer)
        self.eos_ids = sorted(token for token in eos_ids if 0 <= token < self.size)
        self._decode = decoder(tokenizer)
        self._unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else 0
        self._missing: list[bytes] = []
        try:
            self.grammar_tokenizer = llguidance.hf.from_tokenizer(
                tokenizer, n_vocab=self.size, eos_token=self.eos_ids or None
            )
        except ValueError:
            self.grammar_tokenizer = self._by_decoding(tokenizer)
        self.extended = self.size + len(self._missing)
        self.bytes_of = [self.grammar_tokenizer.decode_bytes([token]) for token in range(self.extended)]
        self.longest = max(map(len, self.bytes_of))

    def model_id(self, token: int) -> int:
        """The id that the model reads for a token."""
        return token if token < self.size else self._unknown

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; an incomplete character is the replacement character."""
        if not self._missing or all(token < self.size for token in ids):
            return self._decode(ids)
        pieces: list[bytes] = []
        run: list[int] = []
        for token in ids:
            if token < self.size:
                run.append(token)
                continue
            pieces += [self._decode(run).encode(), self._missing[token - self.size]]
            run = []
        return b"".join([*pieces, self._decode(run).encode()]).decode(errors="replace")

    def _by_decoding(self, tokenizer: Any) -> LLTokenizer:
        """Tokens of a tokenizer whose decoder the library does not know: each one's bytes are what it decodes to."""
        backend = tokenizer.backend_tokenizer
        special = set(tokenizer.all_special_ids)
        tokens = [backend.decode([token], skip_special_tokens=False).encode() for token in range(self.size)]
        ids = backend.encode(_SAMPLE, add_special_tokens=False).ids
        if b"".join(tokens[i] for i in ids) != _SAMPLE.encode():
            raise ConfigError("the tokenizer's tokens do not decode one by one: its model cannot be guided")
        written = {text for token, text in enumerate(tokens) if token not in special}
        self._missing = [bytes([byte]) for byte in range(256) if bytes([byte]) not in written]
        return LLTokenizer(
            TokenizerWrapper(_ByBytes([*tokens, *self._missing], special, self.eos_ids)),
            n_vocab=self.size + len(self._missing),
            eos_token=self.eos_ids or None,
        )


class ByteVocabulary:
    """Every byte a token, and one that ends a text: for texts whose tokens are not known."""

    def __init__(self) -> None:
        self.size = self.extended = 257
        self.eos_ids = [256]
        self.bytes_of = [*(bytes([byte]) for byte in range(256)), b""]
        tokens = _ByBytes([*self.bytes_of[:256], b"<end>"], {256}, self.eos_ids)
        self.grammar_tokenizer = LLTokenizer(TokenizerWrapper(tokens), n_vocab=self.size, eos_token=self.eos_ids)

    def model_id(self, token: int) -> int:
        """The same: there is no model."""
        return token

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these bytes."""
        return b"".join(self.bytes_of[token] for token in ids).decode(errors="replace")


AnyVocabulary = Vocabulary | ByteVocabulary


class _ByBytes:
    """What the library asks of a tokenizer that it does not know; texts are split into the longest tokens."""

    def __init__(self, tokens: list[bytes], special: set[int], eos_ids: list[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(special)
        self.eos_token_id = eos_ids[0] if eos_ids else 0
        self.bos_token_id = None
        self._ids: dict[bytes, int] = {}
        for token, text in enumerate(tokens):
            if token not in special:
                self._ids.setdefault(text, token)
        self._longest = max(map(len, self._ids))
        self._by_byte = [self._ids.get(bytes([byte]), 0) for byte in range(256)]

    def __call__(self, text: bytes) -> list[int]:
        if self._longest == 1:
            return [self._by_byte[byte] for byte in text]
        ids: list[int] = []
        at = 0
        while at < len(text):
            length = next(n for n in range(self._longest, 0, -1) if text[at : at + n] in self._ids)
            ids.append(self._ids[text[at : at + length]])
            at += length
        return ids
