"""Reads what callers said of answers from a store's file, without writing to it: a server may be using it."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from serve_app.store.reading import reading
from serve_app.store.schema import decisions, feedback


@dataclass(frozen=True, slots=True)
class Judgement:
    """One piece of feedback with the decision that it is about; see `Feedback` and `DecisionRecord`."""

    decision_id: str
    status: str
    pool: str
    model: str
    prompt: str | None
    score: float | None
    preferred: str | None
    against: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_ms: float


def read_judgements(path: Path) -> tuple[list[Judgement], dict[str, str]]:
    """All feedback in the file, oldest first, and the model that each pool last answered with.

    Raises ConfigError if there is no such file, or it is not a store of this version.
    """
    columns = [
        *(decisions.c[name] for name in ("decision_id", "status", "pool", "model", "prompt")),
        *(feedback.c[name] for name in ("score", "preferred", "against")),
        *(decisions.c[name] for name in ("prompt_tokens", "completion_tokens", "cost_usd", "latency_ms")),
    ]
    given = select(*columns).join(feedback, feedback.c.decision_id == decisions.c.decision_id).order_by(feedback.c.id)
    newest = select(decisions.c.pool, decisions.c.model, func.max(decisions.c.created_s)).group_by(decisions.c.pool)
    with reading(path) as connection:
        judgements = [Judgement(*row) for row in connection.execute(given)]
        models = {pool: model for pool, model, _ in connection.execute(newest)}  # SQLite: the row of the maximum
    return judgements, models
