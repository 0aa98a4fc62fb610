"""How to sample beyond what `Sampling` says, in vLLM's terms: read from `Query.extra` and checked, for both engines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.errors import RequestError

MOST_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class FurtherSampling:
    """Each by its neutral value, unless the caller says another. `top_k` 0: as many tokens as there are."""

    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, extra: Mapping[str, Any], *, max_tokens: int, vocabulary: int) -> "FurtherSampling":
        """Those in `extra`, for an answer of at most `max_tokens` by a model that scores `vocabulary` tokens.

        Raises RequestError that names the field of a value out of range.
        """
        stated = {key: extra[key] for key in cls.__slots__ if extra.get(key) is not None} if extra else {}
        if not stated:
            return NEUTRAL
        if "logit_bias" in stated:
            stated["logit_bias"] = _biases(stated["logit_bias"], vocabulary)
        further = cls(**stated)
        further._check(max_tokens)
        further = replace(further, top_k=max(0, further.top_k))
        return NEUTRAL if further == NEUTRAL else further

    def _check(self, max_tokens: int) -> None:
        _demand(_whole(self.top_k) and self.top_k >= -1, "top_k", "a whole number of at least 1, or 0 or -1 for all")
        _demand(_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", "a number from 0 to 1")
        penalty = self.repetition_penalty
        _demand(_number(penalty) and penalty > 0, "repetition_penalty", "a number above 0; 1 changes nothing")
        _demand(isinstance(self.ignore_eos, bool), "ignore_eos", "true or false")
        least = self.min_tokens
        _demand(_whole(least) and least >= 0, "min_tokens", "a whole number of at least 0")
        _demand(least <= max_tokens, "min_tokens", f"at most {max_tokens}, the tokens that the answer may have")


NEUTRAL = FurtherSampling()
"""That of a request without any of them."""


def _biases(given: Any, vocabulary: int) -> dict[int, float]:
    _demand(isinstance(given, Mapping), "logit_bias", "an object that maps token ids to numbers")
    found: dict[int, float] = {}
    for key, bias in given.items():
        text = str(key)
        known = text.isascii() and text.isdecimal() and len(text) < 12 and int(text) < vocabulary
        _demand(known, "logit_bias", f"by token ids of this model, 0 to {vocabulary - 1}; {text[:20]!r} is none")
        right = _number(bias) and abs(bias) <= MOST_BIAS
        _demand(right, "logit_bias", f"numbers from {-MOST_BIAS:g} to {MOST_BIAS:g}; that of token {text} is not")
        found[int(text)] = float(bias)
    return found


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _demand(right: bool, name: str, what: str) -> None:
    if not right:
        raise RequestError(f"{name} must be {what}", param=name)
