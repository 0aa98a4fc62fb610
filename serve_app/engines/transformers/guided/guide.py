"""One choice's way through its grammar: which tokens may come next, and how the answer still ends in time.

A grammar alone lets a model write blanks, digits or array items until its tokens run out. So a Guide keeps a closing
plan: tokens that end the answer from here. Near the limit a sampled token is accepted only if a plan still fits after
it; otherwise the plan's own next token takes its place. Numbers and repeated characters that run on are ended the same
way. A plan is any short way out, not always the shortest.
"""

from collections import Counter

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from serve_app.engines.transformers.guided.vocabulary import AnyVocabulary
from serve_app.errors import RequestError

REFRESH = 32
"""Tokens between two looks at the way out while the limit is far."""
MARGIN = 48
"""The way out is looked at after every token once fewer than this and twice its length are left."""
RETRY = 4
"""Tokens until the next look where no way out is short enough. Longer tokens than a plan's may make one fit."""
REJOIN = 8
"""Tokens of a way out that may be skipped to come back to it."""
LONGEST_NUMBER = 17
"""Digits of a number without end: what 64 bits hold, and what a float distinguishes."""
EXPONENT = 2
"""Digits of an exponent."""
LONGEST_RUN = 100
"""One character repeated inside a string."""

_CLOSING = b'}]",:'
_LETTER = b"q"
"""Where it may come, the text is inside a string, which only a quote ends."""
_MOST_USES, _MOST_DIGITS = 64, 3
"""Of one token in a plan, before rarer ones come first: a way out must not run in a circle."""
_DIGITS = b"0123456789"
_OPENING = b"ntf[{"


def reason(matcher: LLMatcher) -> str:
    """Why a matcher is in error, in one line without the text that it has read."""
    message = matcher.get_error().partition("<state>")[0].replace("<non-verbose/>", "")
    if "NoExtension" in message:
        return "no answer has it"
    return " ".join(message.split())[:300].rstrip(".")


class Closer:
    """Finds closing plans. Tokens of one byte each that tend to end things come first, in this order."""

    def __init__(self, vocabulary: AnyVocabulary) -> None:
        single = {text: token for token, text in reversed(list(enumerate(vocabulary.bytes_of))) if len(text) == 1}
        self._single = sorted(single.values())
        self._closing = [single[bytes([b])] for b in _CLOSING if bytes([b]) in single]
        self._quote, self._letter = single.get(b'"', -1), single.get(_LETTER, -1)
        self._digits = [single[bytes([b])] for b in _DIGITS if bytes([b]) in single]
        self._opening = [single[bytes([b])] for b in _OPENING if bytes([b]) in single]
        self._size, self._eos = vocabulary.extended, vocabulary.eos_ids

    def plan(self, matcher: LLMatcher, most: int) -> tuple[int, ...] | None:
        """At most `most` tokens after which the answer may end; None if none was found. The matcher is unchanged."""
        matcher = matcher.deep_copy()  # a microsecond, and the library's rollback loses its way after forced tokens
        found: list[int] = []
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            forced = matcher.compute_ff_tokens()
            step = forced if forced else self._step(matcher, used)
            if not step or len(found) + len(step) > most or not matcher.consume_tokens(step):
                return None
            used.update(step)
            found += step
        return None if matcher.is_error() else tuple(found)

    def _step(self, matcher: LLMatcher, used: Counter[int]) -> list[int]:
        def may_come(token: int) -> bool:  # a fiftieth of the time that a whole mask takes
            return token >= 0 and matcher.validate_tokens([token]) == 1

        inside = may_come(self._letter)
        if inside and may_come(self._quote):
            return [self._quote]
        digits = sorted(self._digits, key=lambda t: used[t])
        groups = () if inside else ((self._closing, _MOST_USES), (digits, _MOST_DIGITS), (self._opening, _MOST_USES))
        for group, most in groups:
            for token in group:
                if may_come(token) and used[token] < most:
                    return [token]
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(mask, bitorder="little")[: self._size]
        rarest = min((t for t in self._single if allowed[t]), key=lambda token: used[token], default=None)
        if rarest is not None:
            return [rarest]
        longer = np.flatnonzero(allowed).tolist()
        return sorted(set(longer) - set(self._eos), key=lambda token: used[token])[:1]


class Guide:
    """The state of one choice. Calls come in turn: `fill`, sometimes `force`, and `choose` with the sampled token."""

    __slots__ = (
        "_closer",
        "_forced",
        "_hopeless_until",
        "_matcher",
        "_plan",
        "_runs",
        "_steps",
        "_vocabulary",
        "_zone",
        "said",
    )

    def __init__(
        self, vocabulary: AnyVocabulary, closer: Closer, matcher: LLMatcher, plan: tuple[int, ...], *, is_json: bool
    ) -> None:
        self._vocabulary, self._closer, self._matcher = vocabulary, closer, matcher
        self._plan: tuple[int, ...] | None = plan
        self._zone = MARGIN + 2 * len(plan)
        self._runs = RunLength() if is_json else None
        self._forced: int | None = None
        self._steps = self._hopeless_until = 0
        self.said = -1
        """The token that `choose` took, in the vocabulary extended by missing bytes."""

    @property
    def words(self) -> int:
        """Words of 32 bits in a mask."""
        return -(-self._vocabulary.extended // 32)

    @property
    def size(self) -> int:
        """Tokens of the model's own vocabulary."""
        return self._vocabulary.size

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def valid(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting() and not self._matcher.is_error()

    @property
    def error(self) -> RequestError | None:
        """Why the grammar has no next token; None while it has."""
        if not self._matcher.is_error():
            return None
        why = reason(self._matcher)
        return RequestError(
            f"the answer's form became too complex to follow ({why}): simplify the schema, pattern or grammar",
            code="invalid_value",
        )

    def fill(self, address: int, size_bytes: int) -> None:
        """Writes the bit mask of tokens that may come next to a place in memory, `words` words long."""
        self._forced = None
        self._matcher.unsafe_compute_mask_ptr(address, size_bytes)

    def force(self, allowed: NDArray[np.uint8]) -> None:
        """No token of the model's own may come: `choose` will take the first of the others. `allowed`: the mask."""
        self._forced = self.size + int(allowed[self.size : self._vocabulary.extended].argmax())

    def choose(self, token: int, left: int) -> int:
        """Takes a token, the sampled one or a better one; returns the id that the model reads next.

        `left`: tokens that the answer may still have, this one included.
        """
        self.said = self._taken(token if self._forced is None else self._forced, left)
        if self._runs is not None:
            self._runs.add(self._vocabulary.bytes_of[self.said])
        self._steps += 1
        return self._vocabulary.model_id(self.said)

    def _taken(self, token: int, left: int) -> int:
        matcher = self._matcher
        runs_on = self._runs is not None and self._runs.too_long(self._vocabulary.bytes_of[token])
        if not runs_on and ((left > self._zone and self._steps % REFRESH) or self._steps < self._hopeless_until):
            self._plan = None
            matcher.consume_token(token)
            return token
        before = self._plan if self._plan is not None else self._closer.plan(matcher, left)
        if runs_on and before is not None and before[:1] != (token,):
            return self._follow(before, token)
        trial = matcher.deep_copy()
        trial.consume_token(token)
        after = None if trial.is_error() else self._after(trial, before, token, left)
        if after is None and before is not None and len(before) <= left:
            return self._follow(before, token)
        self._matcher, self._plan = trial, after
        if after is not None:
            self._zone = max(self._zone, MARGIN + 2 * len(after))
        elif not trial.is_error():
            self._hopeless_until = self._steps + RETRY
        return token

    def _follow(self, plan: tuple[int, ...], token: int) -> int:
        """The plan's next token; the end where it has none; the sampled token for a model that knows no end."""
        step = plan[0] if plan else next(iter(self._vocabulary.eos_ids), token)
        self._matcher.consume_token(step)
        self._plan = plan[1:] if plan else None
        return step

    def _after(self, trial: LLMatcher, before: tuple[int, ...] | None, token: int, left: int) -> tuple[int, ...] | None:
        """A plan of fewer than `left` tokens from the state after `token`, an earlier one where it still holds."""
        if trial.is_accepting():
            return ()
        if before:
            if before[0] == token:
                return before[1:]
            ending = [*before, *self._vocabulary.eos_ids[:1]]
            for skipped in range(min(REJOIN, len(before))):  # a token may say what several of the plan's do
                if len(before) - skipped < left and trial.validate_tokens(ending[skipped:]) == len(ending) - skipped:
                    return before[skipped:]
        return self._closer.plan(trial, left - 1)


class RunLength:
    """Follows JSON text and says when a number's digits, or one character in a string, run on."""

    __slots__ = ("_escaped", "_in_string", "_last", "_length")

    def __init__(self) -> None:
        self._in_string = self._escaped = False
        self._last, self._length = 0, 0

    def add(self, text: bytes) -> None:
        """The next piece of the text."""
        for byte in text:
            if self._in_string:
                self._length = self._length + 1 if byte == self._last else 1
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:
                    self._escaped = True
                elif byte == 0x22:
                    self._in_string, self._length = False, 0
            else:
                self._length = self._number(byte)
                self._in_string = byte == 0x22
            self._last = byte

    def _number(self, byte: int) -> int:
        """Digits of the number so far. An exponent has room for EXPONENT of them: parsers refuse what is no double."""
        if byte in _DIGITS:
            return self._length + 1
        if byte in b"eE" and self._last in _DIGITS:
            return LONGEST_NUMBER - EXPONENT
        return self._length if byte in b"+-" and self._last in b"eE" and self._length else 0

    def too_long(self, text: bytes) -> bool:
        """Whether a token with this text would continue a run that is long enough."""
        if not text:
            return False
        if self._in_string:
            return self._length >= LONGEST_RUN and text[0] == self._last
        return self._length + sum(byte in _DIGITS for byte in text) > LONGEST_NUMBER and text[0] in _DIGITS
