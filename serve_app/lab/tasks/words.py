"""The lab's own list of common English words, by length."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def words_of_length(length: int) -> tuple[str, ...]:
    """All listed words of that many letters, sorted. Raises ValueError if there is none."""
    text = files("serve_app.lab.tasks").joinpath("words.txt").read_text(encoding="ascii")
    words = tuple(sorted(word for word in text.split() if len(word) == length))
    if not words:
        raise ValueError(f"the word list has no word of length {length}: it has 3 to 10")
    return words
