"""The task table: which task a query is, and what the models of that task are sent.

The caller's hint counts first, then patterns in the order of the table, then a fitted classifier. Apple's reports have
a table of this kind, with an adapter for each feature, and do not publish how a request finds its row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from serve_app.config.orchestration import INPUT, TaskConfig, TierConfig
from serve_app.errors import RequestError
from serve_app.types import Message, Query, Sampling

DEFAULT: Final = "default"
"""Name of the row for queries of no task, and the hint that names it."""
_MOST_CHARS: Final = 20_000
"""Of the last turn that patterns and the classifier read; a task shows early, and reading takes time."""
_UNSET: Final = Sampling().temperature


class TaskClassifier(Protocol):
    """Names the task of a text."""

    @property
    def version(self) -> str:
        """Changes with whatever it learned."""

    def probabilities(self, text: str) -> Mapping[str, float]:
        """Of each task that it knows, in [0, 1]; they need not sum to 1, as a text may be of none."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """A query's row in the table. `probability`: by the classifier, None if another source named the task."""

    name: str
    row: TaskConfig
    source: str
    probability: float | None = None

    def __str__(self) -> str:
        sure = "" if self.probability is None else f" {self.probability:.3f}"
        return f"task {self.name} ({self.source}{sure})"


@dataclass(frozen=True)
class TaskTable:
    """Rows by name, and the row for all other queries. `min_probability`: of the classifier's task."""

    rows: Mapping[str, TaskConfig]
    default: TaskConfig
    classifier: TaskClassifier | None = None
    min_probability: float = 0.5
    _patterns: Sequence[tuple[str, re.Pattern[str]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = [(name, re.compile(p, re.IGNORECASE)) for name, row in self.rows.items() for p in row.patterns]
        object.__setattr__(self, "_patterns", found)

    def recognize(self, query: Query) -> Recognized:
        """The query's row. Raises RequestError for a hint that names no row."""
        if query.task is not None:
            return self._hinted(query.task)
        text = last_turn(query)[:_MOST_CHARS]
        for name, pattern in self._patterns:
            if pattern.search(text):
                return Recognized(name, self.rows[name], "pattern")
        if self.classifier is not None:
            known = {n: p for n, p in self.classifier.probabilities(text).items() if n in self.rows}
            best = max(known, key=known.__getitem__, default=None)
            if best is not None and known[best] >= self.min_probability:
                return Recognized(best, self.rows[best], "classifier", known[best])
        return Recognized(DEFAULT, self.default, "no task")

    def _hinted(self, name: str) -> Recognized:
        if name == DEFAULT:
            return Recognized(DEFAULT, self.default, "hint")
        if (row := self.rows.get(name)) is None:
            raise RequestError(
                f"task: {name[:64]!r} is not one of {', '.join([*self.rows, DEFAULT])}; leave the hint out to have the "
                "task recognized",
                param="task",
                code="invalid_value",
            )
        return Recognized(name, row, "hint")


def last_turn(query: Query) -> str:
    """The text of the last turn of the user; of the last turn at all if there is none."""
    turns = (message.content for message in reversed(query.messages) if message.role == "user")
    return next(turns, query.messages[-1].content if query.messages else "")


def sent_to(query: Query, row: TaskConfig, tier: TierConfig, work: Sequence[Message] = ()) -> Query:
    """The query as a tier receives it: the row's prompt, sampling and format around it, and what was done so far.

    What the caller set stays: an answer format, tools, a limit of tokens, a temperature.
    An adapter that the caller named stays as well. `work`: turns that tiers before added, which follow the last one.
    """
    sampling, given = query.sampling, query.sampling
    if row.temperature is not None and given.temperature == _UNSET and "temperature" not in given.stated:
        sampling = replace(sampling, temperature=row.temperature)
    if row.max_tokens is not None and given.max_tokens is None:
        sampling = replace(sampling, max_tokens=row.max_tokens)
    if tier.min_confidence is not None and not given.logprobs:
        sampling = replace(sampling, logprobs=True)
    shape = query.response_format
    if shape is None and not query.tools and not query.extra and row.response_format is not None:
        shape = row.response_format
    messages = query.messages
    if query.endpoint == "chat":
        messages = (*_prompted(query.messages, row), *work)
    return replace(
        query,
        messages=messages,
        sampling=sampling,
        response_format=shape,
        adapter=query.adapter or tier.adapter,
    )


def _prompted(messages: tuple[Message, ...], row: TaskConfig) -> tuple[Message, ...]:
    """The conversation behind the row's system message, its last turn of the user in the row's template."""
    turns = list(messages)
    last = max((i for i, m in enumerate(turns) if m.role == "user"), default=None)
    if row.template is not None and last is not None:
        template = row.template
        turns[last] = turns[last].rewritten(lambda text: template.replace(INPUT, text))
    if row.system is not None:
        turns.insert(0, Message("system", row.system))
    return tuple(turns)
