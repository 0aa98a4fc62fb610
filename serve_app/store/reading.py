"""Opens a store's file to read from it alone: a server may be using it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from serve_app.errors import ConfigError
from serve_app.store.schema import APPLICATION_ID, VERSION


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """A connection to the file that cannot write. Raises ConfigError if it is missing or no store of this version."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the file that `store.path` names")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if application != APPLICATION_ID:
                raise ConfigError(f"{path}: is no decision log; give the file that `store.path` names")
            if version != VERSION:
                raise ConfigError(f"{path}: has schema version {version}, this program reads {VERSION}")
            yield connection
    except DBAPIError as e:
        raise ConfigError(f"{path}: cannot be read ({e.orig}); give the file that `store.path` names") from e
    finally:
        engine.dispose()
