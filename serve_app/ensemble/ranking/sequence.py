"""Token sequences of pair rankers: a source and candidates, each opened by its own special token and closed by SEP.

As in LLM-Blender each part is encoded on its own, so that it also keeps the encoder's opening token:

    [CLS] <|source|> ... [SEP] [CLS] <|candidate1|> ... [SEP] [CLS] <|candidate2|> ... [SEP]

Each part has a limit in tokens, its special tokens included; what a short source leaves of its own is shared by the
candidates. A part beyond its limit keeps its beginning. Text that looks like a special token is read as plain text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigError

SOURCE, LEFT, RIGHT = "<|source|>", "<|candidate1|>", "<|candidate2|>"
_CHARACTERS = 64
"""Of a text, for each token that may be read of it; what is beyond is not even tokenized."""
_FEWEST = 8
"""Tokens that a part must be allowed: its special tokens and some text."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Most tokens of the source and of each candidate, special tokens included; LLM-Blender has 128 on MixInstruct."""

    source: int = 128
    candidate: int = 128

    def __post_init__(self) -> None:
        if min(self.source, self.candidate) < _FEWEST:
            raise ConfigError(f"lengths {self.source} and {self.candidate}: give at least {_FEWEST} tokens to each")

    def of_candidate(self, source_tokens: int) -> int:
        """Most tokens of a candidate next to a source of so many."""
        return self.candidate + (self.source - source_tokens) // 2


class SequenceTokenizer:
    """Tokenizes sources and candidates; the three special tokens are added to the tokenizer."""

    def __init__(self, tokenizer: Any, lengths: Lengths) -> None:
        self.tokenizer = tokenizer
        self.lengths = lengths
        tokenizer.truncation_side = "right"
        tokenizer.add_special_tokens({"additional_special_tokens": [SOURCE, LEFT, RIGHT]})
        self._source, self._left, self._right = tokenizer.convert_tokens_to_ids([SOURCE, LEFT, RIGHT])
        opening = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        closing = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if closing is None:
            raise ConfigError("this encoder's tokenizer has neither a SEP nor an end token; choose another encoder")
        self._opening, self._closing = [] if opening is None else [opening], [closing]
        self.special = (self._source, self._left, self._right)
        self.opening = closing if opening is None else opening
        self.mark = len(self._opening)
        """Position of a part's special token."""
        self.pad = tokenizer.pad_token_id or 0

    def __len__(self) -> int:
        return len(self.tokenizer)

    def source(self, text: str) -> list[int]:
        """The source's part."""
        return self._parts([text], self._source, self.lengths.source)[0]

    def candidates(self, texts: Sequence[str], source_tokens: int) -> list[list[int]]:
        """The parts of candidates, each as one on the left."""
        return self._parts(texts, self._left, self.lengths.of_candidate(source_tokens))

    def right(self, part: Sequence[int]) -> list[int]:
        """A candidate's part as one on the right."""
        return [*part[: self.mark], self._right, *part[self.mark + 1 :]]

    def fingerprint(self) -> bytes:
        """Bytes that change with the vocabulary and how text is split; limits that calls set are left out."""
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return json.dumps({**backend, "truncation": None, "padding": None}, sort_keys=True).encode()

    def save(self, folder: Path) -> None:
        """Write the tokenizer in Hugging Face's format."""
        self.tokenizer.save_pretrained(folder)

    def _parts(self, texts: Sequence[str], special: int, limit: int) -> list[list[int]]:
        kept = [text[: _CHARACTERS * limit].encode("utf-8", "replace").decode("utf-8") for text in texts]
        room = limit - self.mark - 2
        found = self.tokenizer(kept, add_special_tokens=False, truncation=True, max_length=room,
                               split_special_tokens=True, return_attention_mask=False)["input_ids"]  # fmt: skip
        return [[*self._opening, special, *ids[:room], *self._closing] for ids in found]
