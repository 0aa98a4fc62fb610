"""Settings of what is kept of requests: the decision log and the request log."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from serve_app.config.base import Node


class StoreConfig(Node):
    """The decision log."""

    path: str = Field("var/jethro.sqlite3", description="SQLite file; relative to the working directory.")
    batch: PositiveInt = 256
    flush_s: PositiveFloat = 0.5
    queue: PositiveInt = Field(50_000, description="Decisions waiting for the writer; beyond it they are counted lost.")
    keep_prompts: bool = False
    keep_days: PositiveInt = 30


class LogConfig(Node):
    """The request log, one JSON line a request on stderr of the Gateway."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True
