"""What the `jethro` loggers of a process say, as JSON lines on its stderr, alongside the request log's.

Inside a replica Ray Serve replaces sys.stderr by a logger that drops most lines, so the lines go to file descriptor 2
itself. Errors of asyncio, of uvicorn and of threads go the same way: nothing else would show them.
"""

import logging
import threading
import traceback
from collections.abc import Sequence
from typing import Any, Final

import orjson

from serve_app.types import REQUEST_ID
from serve_app.unrecorded import any_ever, any_open, is_unrecorded

_FOREIGN: Final = ("asyncio", "uvicorn.error")
"""Loggers of others that report our exceptions; of theirs only errors, since callers can cause warnings at will."""
_LONGEST: Final = 20_000
"""Characters of a message or a traceback; of a longer one the beginning is cut."""


class StderrLines:
    """File descriptor 2 as a text stream of whole lines: those of several threads and streams do not mix."""

    _lock: Final = threading.Lock()

    def __init__(self) -> None:
        self._out = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - kept

    def write(self, lines: str) -> None:
        """Write complete lines. Raises OSError, ValueError if stderr is closed."""
        with self._lock:
            self._out.write(lines)
            self._out.flush()

    def flush(self) -> None:
        """Nothing is left to write."""


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to a record that has none: the current request's, or None."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes."""
        if not hasattr(record, "request_id"):
            record.request_id = REQUEST_ID.get()
        return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `replica` names the process. The traceback is one string."""

    def __init__(self, replica: str = "") -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "event": "log",
            "time": round(record.created, 3),
            "replica": self._replica,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _valid(_message(record)),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            fields["request_id"] = _valid(str(request_id))
        if record.exc_info:
            # not formatException, which prints to a string: Ray Serve's own `print` would garble it
            lines = _frames(record.exc_info[1]) if _hides(record) else traceback.format_exception(*record.exc_info)
            fields["traceback"] = _valid("".join(lines).rstrip())
        return orjson.dumps(fields).decode()


def log_to_stderr(level: str, replica: str = "") -> None:
    """Send the `jethro` loggers of this process to its stderr, from `level` (a name) upwards. Idempotent."""
    handler = logging.StreamHandler(StderrLines())
    handler.setFormatter(JsonFormatter(replica))
    handler.addFilter(RequestIdFilter())
    _install(logging.getLogger("jethro"), [handler])
    logging.getLogger("jethro").setLevel(level.upper())
    errors = logging.StreamHandler(StderrLines())
    errors.setLevel(logging.ERROR)
    errors.setFormatter(JsonFormatter(replica))
    errors.addFilter(RequestIdFilter())
    for name in _FOREIGN:
        _install(logging.getLogger(name), [errors])
    threading.excepthook = _thread_failed


def _hides(record: logging.LogRecord) -> bool:
    """Whether what an error says must not be logged: it may quote a request of which nothing is kept.

    Errors that asyncio reports late, as their task is collected, no longer say whose they are.
    """
    return is_unrecorded() or any_open() or (any_ever() and record.name in _FOREIGN)


def _message(record: logging.LogRecord) -> str:
    """The message; without its values, which may be content, for such a request."""
    if any_ever() and record.name in _FOREIGN:  # the text itself quotes the task and its exception
        return f"an error that {record.name} reports; its text is not logged"
    return str(record.msg) if is_unrecorded() else record.getMessage()


def _frames(error: BaseException | None) -> list[str]:
    """A traceback without what the errors say: types and places in the code."""
    lines: list[str] = []
    while error is not None:
        lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}: (not logged)\n"]
        if isinstance(error, BaseExceptionGroup):
            lines.append(f"of {', '.join(type(inner).__name__ for inner in error.exceptions)}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def _install(logger: logging.Logger, handlers: Sequence[logging.Handler]) -> None:
    """Replace our handlers; what is above the logger does not log a second time."""
    for old in [h for h in logger.handlers if isinstance(h.formatter, JsonFormatter)]:
        logger.removeHandler(old)
    for handler in handlers:
        logger.addHandler(handler)
    logger.propagate = False


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "?"
    error = failed.exc_value if failed.exc_value is not None else failed.exc_type()
    logging.getLogger("jethro").error("thread %s failed", name, exc_info=(failed.exc_type, error, failed.exc_traceback))


def _valid(text: str) -> str:
    """Valid UTF-8 of bounded length."""
    if len(text) > _LONGEST:
        text = "… " + text[-_LONGEST:]
    return text.encode("utf-8", "backslashreplace").decode()
