"""Reads feedback and prompts from a store's file, without writing to it: a server may be using it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from serve_app.errors import ConfigError
from serve_app.files import unwritable
from serve_app.store.base import COLLECTED
from serve_app.store.file import damage
from serve_app.store.schema import APPLICATION_ID, VERSION, check_format, decisions, feedback


@contextmanager
def open_readonly(path: Path) -> Iterator[Connection]:
    """A read-only connection. Raises ConfigError if the file is missing or not a store of this version."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; use the file named in `store.path`")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if application != APPLICATION_ID:
                raise ConfigError(f"{path}: is not a decision log; use the file named in `store.path`")
            if version != VERSION:
                raise ConfigError(
                    f"{path}: has schema version {version}, this program reads {VERSION}: run the version that wrote it"
                )
            yield connection
    except DBAPIError as e:
        raise ConfigError(f"{path}: cannot be read ({e.orig}); use the file named in `store.path`") from e
    finally:
        engine.dispose()


def check_usable(path: str) -> None:
    """Raises ConfigError, naming key, file and fix, for a path at which no store can be opened. Changes nothing.

    Reads the whole file, as the store does when it opens: of gigabytes that takes seconds.
    """
    file = Path(path)
    if (why := unwritable(file.parent)) is not None:
        raise ConfigError(f"store.path: {path} cannot be created ({why}); choose another path")
    if not file.exists():
        return
    if not file.is_file() or not os.access(file, os.R_OK | os.W_OK):
        what = "cannot be read and written by this user" if file.is_file() else "is no file"
        raise ConfigError(f"store.path: {path} {what}; choose another path")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if application or tables:  # an empty file becomes a store
                check_format(connection, path)
                if (found := damage(connection)) is not None:
                    remedy = "move it away, or repair it with the command .recover of sqlite3"
                    raise ConfigError(f"store.path: {path} is damaged ({found}): {remedy}")
    except sqlite3.Error as e:
        raise ConfigError(f"store.path: {path} cannot be read ({e}); move it away, or choose another path") from e


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One piece of feedback with its decision; see `Feedback` and `RequestRecord`."""

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


def feedback_rows(path: Path) -> tuple[list[FeedbackRow], dict[str, str]]:
    """All feedback in the file, oldest first, and the model that each pool last answered with.

    Raises ConfigError if there is no such file, or it is not a store of this version.
    """
    columns = [
        *(decisions.c[name] for name in ("decision_id", "status", "pool", "model", "prompt")),
        *(feedback.c[name] for name in ("score", "preferred", "against")),
        *(decisions.c[name] for name in ("prompt_tokens", "completion_tokens", "cost_usd", "latency_ms")),
    ]
    query = select(*columns).join(feedback, feedback.c.decision_id == decisions.c.decision_id).order_by(feedback.c.id)
    newest = select(decisions.c.pool, decisions.c.model, func.max(decisions.c.created_s)).group_by(decisions.c.pool)
    with open_readonly(path) as connection:
        rows = [FeedbackRow(*row) for row in connection.execute(query)]
        models = {pool: model for pool, model, _ in connection.execute(newest)}  # SQLite: the row of the maximum
    return rows, models


_CONVERSATIONS = ("chat", "route")
"""Endpoints whose prompts are conversations; a raw completion's prompt is none."""


def read_prompts(path: Path, newest: int | None = None) -> list[tuple[str, str]]:
    """(id of its last decision, text) of each different conversation, in the order they last came up.

    `newest` limits their number. Queries of `jethro data collect` are skipped. The log keeps the whole conversation as
    one text. Raises ConfigError if there is no such file, or it is not a store of this version.
    """
    last = func.max(decisions.c.created_s).label("last_s")
    ours = decisions.c.request_id.startswith(COLLECTED, autoescape=True)
    kept = decisions.c.prompt.is_not(None) & decisions.c.endpoint.in_(_CONVERSATIONS) & ~ours
    prompts = select(decisions.c.decision_id, decisions.c.prompt, last).where(kept).group_by(decisions.c.prompt)
    with open_readonly(path) as connection:
        rows = connection.execute(prompts.order_by(last.desc(), decisions.c.decision_id).limit(newest)).all()
    return [(decision_id, prompt) for decision_id, prompt, _ in reversed(rows)]
