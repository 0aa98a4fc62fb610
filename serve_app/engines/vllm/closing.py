"""Ends structured answers in time: vLLM's grammars say what may follow, and not how an answer still becomes whole.

An answer's text is read next to its tokens. While many tokens are left it is only kept. Near the limit a piece is sent
only if a short way out still fits behind it; otherwise the way out takes its place, and the model is not asked further.
The same way ends an answer for which the model has no token, such as a letter that its vocabulary lacks. What the
grammar here cannot read, or no way out was found for, passes as vLLM wrote it.
"""

from collections.abc import Callable

from llguidance import LLMatcher

from serve_app.engines.transformers.guided.compiler import Form
from serve_app.engines.transformers.guided.guide import MARGIN, REFRESH

_BYTES_PER_TOKEN = 16
"""Of a way out that is looked for; it is then counted in the model's tokens."""


class Closing:
    """One choice. `count` returns the tokens of a text; `limit`: those that the answer may have."""

    def __init__(self, form: Form, limit: int, count: Callable[[str], int]) -> None:
        self._form, self._limit, self._count = form, limit, count
        self._matcher: LLMatcher | None = form.matcher.deep_copy()
        self._unread: list[str] = []
        way_out = form.vocabulary.decode(form.plan)
        tokens = count(way_out)
        self._way_out = way_out if tokens <= limit else None
        self._zone = MARGIN + 2 * tokens
        self._looked_at = 0
        self.used = 0
        """Tokens of the answer, those of the way out included."""

    def take(self, text: str, tokens: int, finish: str | None) -> str | None:
        """What ends the answer in the place of this piece of `tokens` tokens; None: the piece passes as it is."""
        used = self.used + tokens
        if self._matcher is None or finish == "stop":
            self.used = used
            return None
        left = self._limit - used
        if finish is None and left > self._zone and used - self._looked_at < REFRESH:
            self._unread.append(text)
            self.used = used
            return None
        self._looked_at = used
        return self._ended(text, used, finish)

    def _ended(self, text: str, used: int, finish: str | None) -> str | None:
        if self._unread:  # the way out before this piece
            self._matcher = self._after("".join(self._unread))
            self._unread = []
            self._way_out = self._found(self._matcher, self._limit - self.used)
        after = self._after(text)
        if after is None:
            self._matcher, self.used = None, used
            return None
        way_out = self._still(after, text, self._limit - used) or self._found(after, self._limit - used)
        if finish is not None and way_out is not None:  # cut by the limit, or left without a token
            return self._close(text + way_out, used + self._count(way_out))
        if way_out is not None:
            self._matcher, self._way_out, self.used = after, way_out, used
            self._zone = max(self._zone, MARGIN + 2 * self._count(way_out))
            return None
        if self._way_out is not None and self._matcher is not None:
            return self._close(self._way_out, self.used + self._count(self._way_out))
        self._matcher, self.used = None, used
        return None

    def _close(self, text: str, used: int) -> str:
        self._matcher, self.used = None, used
        return text

    def _after(self, text: str) -> LLMatcher | None:
        """The state after a text; None if the form does not have it."""
        if self._matcher is None:
            return None
        after: LLMatcher = self._matcher.deep_copy()
        return after if after.consume_tokens(list(text.encode())) else None

    def _still(self, after: LLMatcher, text: str, left: int) -> str | None:
        """The way out that was known, if it holds behind `text` as well, or goes through it."""
        known = self._way_out
        if not known:
            return None
        known = known.removeprefix(text)
        ids = [*known.encode(), *self._form.vocabulary.eos_ids]
        return known if after.validate_tokens(ids) == len(ids) and self._count(known) <= left else None

    def _found(self, matcher: LLMatcher | None, left: int) -> str | None:
        """A way out of at most `left` tokens."""
        if matcher is None or left < 0:
            return None
        plan = self._form.closer.plan(matcher, _BYTES_PER_TOKEN * left)
        if plan is None:
            return None
        text = self._form.vocabulary.decode(plan)
        return text if self._count(text) <= left else None
