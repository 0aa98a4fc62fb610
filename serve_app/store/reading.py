"""Reads feedback and prompts from a store's file, without writing to it: a server may be using it."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, create_engine, func, literal, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from serve_app.errors import ConfigError
from serve_app.files import unwritable
from serve_app.store.base import COLLECTED
from serve_app.store.file import damage
from serve_app.store.filtering import COLUMNS, Cursor, DecisionFilter
from serve_app.store.schema import APPLICATION_ID, VERSION, check_format, decisions, default_value, feedback, to_json

_VARIABLES: Final = 500
"""SQLite bounds the number of variables in a statement."""
_INSTRUCTIONS: Final = 10_000
"""Of SQLite's machine between two looks at the clock: a fraction of a millisecond."""


class TooSlow(Exception):
    """A query was ended because it took too long; the text says what to do."""


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


place = tuple_(decisions.c.created_s, decisions.c.decision_id)
"""The order of the log."""


def conditions(which: DecisionFilter) -> list[ColumnElement[bool]]:
    """For a SELECT of decisions; values are bound, never written into the statement."""
    columns = decisions.c
    given = {name: getattr(which, name) for name in COLUMNS}
    found = [columns[name] == text for name, text in given.items() if text is not None]
    if which.user is not None:
        found.append((columns.user == which.user) | (columns.safety_identifier == which.user))
    if which.policy is not None:
        found.append(columns.policy_version.startswith(which.policy, autoescape=True))
    bounds = (
        (which.since_s, columns.created_s.__ge__),
        (which.until_s, columns.created_s.__lt__),
        (which.min_latency_ms, columns.latency_ms.__ge__),
        (which.max_latency_ms, columns.latency_ms.__le__),
    )
    return [*found, *(condition(value) for value, condition in bounds if value is not None)]


def newest_decisions(
    path: Path, which: DecisionFilter, before: Cursor | None, most: int, seconds: float
) -> list[dict[str, Any]]:
    """Up to `most` decisions with their feedback, the newest first, that precede the one at `before`.

    Raises TooSlow after so many seconds, ConfigError if there is no such file, or it is not a store of this version.
    """
    selected = conditions(which) + ([] if before is None else [place < before])
    newest = [column.desc() for column in place.clauses]
    with open_readonly(path) as connection, _bounded(connection, seconds):
        found = select(*_columns(connection)).where(*selected).order_by(*newest).limit(most)
        rows = [row._asdict() for row in connection.execute(found)]
        return with_feedback(connection, rows)


def decision_pages(path: Path, which: DecisionFilter, id_: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """Records of decisions with their feedback, oldest first, in pages; of one decision if an id is given.

    Raises ConfigError if there is no such file, or it is not a store of this version.
    """
    selected = [*conditions(which), *([] if id_ is None else [decisions.c.decision_id == id_])]
    after: Cursor | None = None
    with open_readonly(path) as connection:
        columns = _columns(connection)
        while True:
            further = [] if after is None else [place > after]
            found = select(*columns).where(*selected, *further).order_by(*place.clauses).limit(_VARIABLES)
            page = with_feedback(connection, [row._asdict() for row in connection.execute(found)])
            if page:
                yield page
                after = (page[-1]["created_s"], page[-1]["decision_id"])
            if len(page) < _VARIABLES:
                return


def _columns(connection: Connection, names: Sequence[str] | None = None) -> list[ColumnElement[Any]]:
    """Columns of decisions, by default all; one that an older file lacks has its default in every row."""
    present = {name for _, name, *_ in connection.exec_driver_sql("PRAGMA table_info(decisions)")}
    return [
        decisions.c[name] if name in present else literal(default_value(name), decisions.c[name].type).label(name)
        for name in (names if names is not None else decisions.c.keys())
    ]


def with_feedback(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of decisions as JSON-ready records, each with its feedback."""
    given: dict[str, list[dict[str, Any]]] = {row["decision_id"]: [] for row in rows}
    ids = list(given)
    for i in range(0, len(ids), _VARIABLES):
        query = select(feedback).where(feedback.c.decision_id.in_(ids[i : i + _VARIABLES])).order_by(feedback.c.id)
        for one in connection.execute(query).mappings():
            given[one["decision_id"]].append(dict(one))
    return [to_json(row, given[row["decision_id"]]) for row in rows]


@contextmanager
def _bounded(connection: Connection, seconds: float) -> Iterator[None]:
    """Ends a query that runs longer, whatever it has to scan. Raises TooSlow."""
    driver: Any = connection.connection.driver_connection
    until_s = monotonic() + seconds
    driver.set_progress_handler(lambda: monotonic() > until_s, _INSTRUCTIONS)
    try:
        yield
    except DBAPIError as e:
        if getattr(e.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            raise
        raise TooSlow(
            f"The log holds too many decisions to be searched for these within {seconds:g} s: give a later `since`."
        ) from None
    finally:
        driver.set_progress_handler(None, 0)


def decision_rows(
    path: Path, which: DecisionFilter, names: Sequence[str], newest: int | None = None
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Columns of decisions, oldest first, and their feedback as (decision id, score, preferred, against).

    `newest` limits their number. Queries of `jethro data collect` are skipped. Raises ConfigError if there is no such
    file, or it is not a store of this version.
    """
    selected = [*conditions(which), ~decisions.c.request_id.startswith(COLLECTED, autoescape=True)]
    given = [feedback.c[name] for name in ("decision_id", "score", "preferred", "against")]
    rated = select(*given).join(decisions, feedback.c.decision_id == decisions.c.decision_id).where(*selected)
    with open_readonly(path) as connection:
        latest = [column.desc() for column in place.clauses]
        found = select(*_columns(connection, names)).where(*selected).order_by(*latest).limit(newest)
        rows = [tuple(row) for row in connection.execute(found)][::-1]
        return rows, [tuple(row) for row in connection.execute(rated.order_by(feedback.c.id))]


_CONVERSATIONS = ("chat", "messages", "responses", "route")
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
