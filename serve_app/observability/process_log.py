"""What the `jethro` loggers of a process say, as JSON lines on its stderr, alongside the request log's.

Inside a replica Ray Serve replaces sys.stderr by a logger that drops most lines, so the lines go to file descriptor 2
itself. Errors of asyncio, of uvicorn and of threads go the same way: nothing else would show them.

Once a process has worked for a request, what an error says is logged only if `log.content` is set: it may quote the
request. Its type and its places in the code are logged, and the text of errors of the machine and of the config.
OpenTelemetry's own log is left out: it repeats itself at every batch, and quotes an exporter's headers, keys included.
"""

import logging
import threading
import traceback
from collections.abc import Sequence
from typing import Any, Final

import orjson

from serve_app.errors import ConfigError, DependencyError
from serve_app.tracing.spans import current_span
from serve_app.types import DECISION_ID, REQUEST_ID
from serve_app.unrecorded import any_content, any_ever, any_open, is_unrecorded

_FOREIGN: Final = ("asyncio", "uvicorn.error")
"""Loggers of others that report our exceptions; of theirs only errors, since callers can cause warnings at will."""
_SILENT: Final = "opentelemetry"
_OF_THE_MACHINE: Final = (ConfigError, DependencyError, OSError, ImportError, MemoryError)
"""Errors whose text is about the machine or the config, and not about a request."""
_OUT_OF_MEMORY: Final = "OutOfMemoryError"
"""torch's, by name: torch may not be loaded."""
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
    """Adds the ids of the current request, its decision and its trace to a record that has none; None without one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes."""
        if not hasattr(record, "request_id"):
            record.request_id = REQUEST_ID.get()
            record.decision_id = DECISION_ID.get()
            record.trace_id = None if (span := current_span()) is None else span.trace_id
        return True


_IDS: Final = ("request_id", "decision_id", "trace_id")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `replica` names the process. The traceback is one string.

    `content`: errors may quote requests, but those of which nothing may be kept.
    """

    def __init__(self, replica: str = "", *, content: bool = False) -> None:
        super().__init__()
        self._replica, self._content = replica, content

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "event": "log",
            "time": round(record.created, 3),
            "replica": self._replica,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _valid(self._message(record)),
        }
        for name in _IDS:
            if (id_ := getattr(record, name, None)) is not None:
                fields[name] = _valid(str(id_))
        if record.exc_info:
            # not formatException, which prints to a string: Ray Serve's own `print` would garble it
            if _hides(record):
                lines = _frames(record.exc_info[1], kept=())
            elif self._quotes_nothing:
                lines = _frames(record.exc_info[1], kept=_OF_THE_MACHINE)
            else:
                lines = traceback.format_exception(*record.exc_info)
            fields["traceback"] = _valid("".join(lines).rstrip())
        return orjson.dumps(fields).decode()

    @property
    def _quotes_nothing(self) -> bool:
        return not self._content and any_content()

    def _message(self, record: logging.LogRecord) -> str:
        """The message, as far as its values may be shown."""
        if record.name in _FOREIGN and (any_ever() or self._quotes_nothing):  # it quotes the task and its exception
            return f"an error that {record.name} reports; its text is not logged"
        if is_unrecorded():
            return str(record.msg)
        if self._quotes_nothing and isinstance(record.args, tuple):
            shown = tuple(_type_alone(value) if isinstance(value, BaseException) else value for value in record.args)
            return str(record.msg) % shown if shown else str(record.msg)
        return record.getMessage()


class _Named:
    """Stands for an error in a message, by the name of its type."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _type_alone(error: BaseException) -> object:
    return error if isinstance(error, _OF_THE_MACHINE) else _Named(type(error).__name__)


def log_to_stderr(level: str, replica: str = "", *, content: bool = False) -> None:
    """Send the `jethro` loggers of this process to its stderr, from `level` (a name) upwards. Idempotent.

    `content`: see JsonFormatter.
    """
    logging.getLogger(_SILENT).setLevel(logging.CRITICAL + 1)
    handler = logging.StreamHandler(StderrLines())
    handler.setFormatter(JsonFormatter(replica, content=content))
    handler.addFilter(RequestIdFilter())
    _install(logging.getLogger("jethro"), [handler])
    logging.getLogger("jethro").setLevel(level.upper())
    errors = logging.StreamHandler(StderrLines())
    errors.setLevel(logging.ERROR)
    errors.setFormatter(JsonFormatter(replica, content=content))
    errors.addFilter(RequestIdFilter())
    for name in _FOREIGN:
        _install(logging.getLogger(name), [errors])
    threading.excepthook = _thread_failed


def _hides(record: logging.LogRecord) -> bool:
    """Whether what an error says must not be logged: it may quote a request of which nothing is kept.

    Errors that asyncio reports late, as their task is collected, no longer say whose they are.
    """
    return is_unrecorded() or any_open() or (any_ever() and record.name in _FOREIGN)


def _frames(error: BaseException | None, kept: tuple[type[BaseException], ...]) -> list[str]:
    """A traceback without what the errors say, but for those of `kept` types: types and places in the code."""
    lines: list[str] = []
    while error is not None:
        name = type(error).__name__
        shown = bool(kept) and (isinstance(error, kept) or name == _OUT_OF_MEMORY)
        lines += [*traceback.format_tb(error.__traceback__), f"{name}: {error if shown else '(not logged)'}\n"]
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
