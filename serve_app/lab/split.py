"""Which queries are held out: a property of the query's text, so no training run can see them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

Split = Literal["train", "unseen"]

HELD_OUT_ONE_IN = 20
"""One normalised prompt in this many is never trained on."""


def normalise(prompt: str) -> str:
    """Lower case, one space between words, no question mark at the end."""
    return " ".join(prompt.lower().split()).rstrip("? ")


def split_of(prompt: str) -> Split:
    """The split a query belongs to, by a stable hash of its normalised text."""
    digest = blake2b(normalise(prompt).encode(), digest_size=8).digest()
    return "unseen" if int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0 else "train"
