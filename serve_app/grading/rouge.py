"""Overlap of an answer's words with the reference's, by the library `rouge-score`."""

import re
from typing import Any

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError, needs_extra
from serve_app.grading.base import ReferenceMetric

_WORDS = re.compile(r"\w+")


class _Rouge(ReferenceMetric):
    """F-measure of one kind of ROUGE (Lin 2004).

    `tokens` "rouge" is the library's own reading: lower case, runs of a-z and 0-9, no stemming. It sees nothing of
    other scripts; "words" takes Unicode's words (runs of letters, digits and underscores, lower case) instead.
    """

    kind: str
    """The library's name of the measure."""
    set_by = ("tokens",)

    def __init__(self, tokens: str = "rouge") -> None:
        if tokens not in ("rouge", "words"):
            raise ConfigError(f"{self.name}: tokens is {tokens!r}, it must be 'rouge' or 'words'")
        self.tokens = tokens
        with needs_extra("ROUGE needs the library rouge-score", "train"):
            from rouge_score import rouge_scorer as library
        self._tokenizer: Any = _Words() if tokens == "words" else library.tokenizers.DefaultTokenizer(use_stemmer=False)
        self._scorer = library.RougeScorer([self.kind], tokenizer=self._tokenizer)

    def prepare(self, dataset: Dataset, row: int, reference: str) -> str:
        """The reference, which must hold a token."""
        if not self._tokenizer.tokenize(reference):
            fix = "; take tokens='words'" if self.tokens == "rouge" and _WORDS.search(reference) else ""
            raise ValueError(f"the reference {reference[:80]!r} holds no token of {self.tokens!r}{fix}")
        return reference

    def grade(self, prepared: str, answer: str) -> float:
        """The F-measure; 0 for an answer without a token."""
        return float(self._scorer.score(prepared, answer)[self.kind].fmeasure)


class RougeL(_Rouge):
    """ROUGE-L over the whole text: F-measure of the longest common subsequence of tokens."""

    name = "rouge_l"
    kind = "rougeL"


class TokenF1(_Rouge):
    """F-measure of the tokens in common, counted with repetition: ROUGE-1.

    SQuAD's F1 is the same measure over another tokenisation: it drops the articles a, an and the, and keeps "don't"
    as one token.
    """

    name = "token_f1"
    kind = "rouge1"


class _Words:
    """A tokenizer as the library takes one."""

    def tokenize(self, text: str) -> list[str]:
        """Unicode's words in lower case."""
        return _WORDS.findall(text.lower())
