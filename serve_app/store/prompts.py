"""Reads the prompts that a store kept: what was asked, each once."""

from pathlib import Path

from sqlalchemy import func, select

from serve_app.store.base import COLLECTED
from serve_app.store.reading import reading
from serve_app.store.schema import decisions

_ASKED = ("chat", "route")
"""Endpoints whose prompts are conversations; a raw completion's prompt is another thing."""


def read_prompts(path: Path, newest: int | None = None) -> list[tuple[str, str]]:
    """(id of its last decision, text) of each different conversation, in the order they last came up.

    `newest` bounds their number. What was asked to collect answers is left out. The log keeps the whole conversation
    as one text. Raises ConfigError if there is no such file, or it is not a store of this version.
    """
    last = func.max(decisions.c.created_s).label("last_s")
    ours = decisions.c.request_id.startswith(COLLECTED, autoescape=True)
    kept = decisions.c.prompt.is_not(None) & decisions.c.endpoint.in_(_ASKED) & ~ours
    asked = select(decisions.c.decision_id, decisions.c.prompt, last).where(kept).group_by(decisions.c.prompt)
    with reading(path) as connection:
        rows = connection.execute(asked.order_by(last.desc(), decisions.c.decision_id).limit(newest)).all()
    return [(decision_id, prompt) for decision_id, prompt, _ in reversed(rows)]
