"""The error hierarchy. Each error knows its HTTP status, its OpenAI type and code, and whether a retry helps.

    JethroError
    ├── ConfigError                  an operator's mistake: startup fails              (500, never sent)
    │   └── DataError                data that cannot be used                          (500, never sent)
    │       └── InsufficientData     too few queries for a guarantee                   (500, never sent)
    ├── DependencyError              an extra is not installed                         (500, never sent)
    ├── RequestError                 the caller's mistake                              400
    │   ├── UnsupportedParameter     a parameter that this model does not support      400
    │   ├── ContextLengthExceeded    the prompt does not fit the model                 400
    │   ├── InvalidAdapter           a LoRA adapter that cannot be used                400
    │   ├── AuthenticationFailed     no key, or a wrong one                            401
    │   ├── PlacementForbidden       no pool may see the request                       403
    │   ├── ContentFiltered          a guard refuses the request or its answer         400
    │   ├── PermissionDenied         a valid key that may not do this                  403
    │   ├── NotFound                 unknown route or record                           404
    │   ├── ModelNotFound            unknown model                                     404
    │   ├── MethodNotAllowed         known route, wrong method                         405
    │   ├── Conflict                 the name is taken                                 409
    │   └── BodyTooLarge             body over the limit                               413
    ├── Overloaded                   a full queue; retry after a while                 429
    ├── PoolUnavailable              no healthy replica now; retry after a while       503
    ├── UpstreamError                a replica or an upstream failed                   502
    └── DeadlineExceeded             the caller's or the server's deadline passed      504

Errors are raised, never yielded. Foreign errors are mapped where they enter.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar


class JethroError(Exception):
    """Base of all errors; `str(error)` is the sentence shown to the caller."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed elsewhere or later."""
        return self.status in (429, 502, 503)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class ConfigError(JethroError):
    """An operator's mistake; the message names the file, the key, the value and the remedy."""


class DataError(ConfigError):
    """Data that cannot be used; the message names the file, the row and the remedy."""


class InsufficientData(DataError):
    """Too little data for a guarantee; the message estimates how many queries it takes."""


class DependencyError(JethroError):
    """An optional dependency is missing; the message is the pip command that installs it."""


def missing_extra(what: str, extra: str) -> DependencyError:
    """The error for missing packages; `what` names them and what needs them."""
    return DependencyError(f'{what}: pip install "jethro[{extra}]"')


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Imports of packages that the extra brings. Raises `missing_extra` where they are not installed."""
    try:
        yield
    except ImportError as e:
        raise missing_extra(what, extra) from e


@contextmanager
def reading(
    path: Path, remedy: str, *broken: type[Exception], error: type[ConfigError] = ConfigError
) -> Iterator[None]:
    """Raises `error`, naming the file and the remedy, if it is missing or unreadable, or for one of `broken`."""
    malformed: tuple[type[Exception], ...] = (OSError, UnicodeDecodeError, *broken)
    try:
        yield
    except FileNotFoundError:
        raise error(f"{path}: no such file; {remedy}") from None
    except malformed as e:
        raise error(f"{path}: cannot be read ({type(e).__name__}: {e}); {remedy}") from e


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Raises ConfigError, naming the file or folder and the remedy, instead of OSError."""
    try:
        yield
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e}); {remedy}") from e


class RequestError(JethroError):
    """The caller's mistake."""

    status = 400
    type = "invalid_request_error"


class UnsupportedParameter(RequestError):
    """A parameter that is valid in OpenAI's API but not supported here; never ignored silently."""

    default_code = "unsupported_parameter"


class ContextLengthExceeded(RequestError):
    """The prompt (with the requested answer) does not fit the model's context."""

    default_code = "context_length_exceeded"


class InvalidAdapter(RequestError):
    """A LoRA adapter that cannot be used: its files, its size, or its base model. The message says what to do."""

    default_code = "invalid_adapter"


class AuthenticationFailed(RequestError):
    """No key or a wrong one."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PlacementForbidden(RequestError):
    """The rules of placement allow no pool that could answer; the same request fails again."""

    status = 403
    type = "permission_error"
    default_code = "placement_forbidden"


class ContentFiltered(RequestError):
    """A guard refuses the request, or the answer before its first byte; OpenAI's and Azure's code."""

    default_code = "content_filter"


class PermissionDenied(RequestError):
    """A valid key whose tenant may not do this."""

    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(RequestError):
    """Unknown route or record."""

    status = 404
    default_code = "not_found"


class ModelNotFound(NotFound):
    """No model, strategy or pool of that name."""

    default_code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The route exists, but not with this method."""

    status = 405
    default_code = "method_not_allowed"


class Conflict(RequestError):
    """The name is taken."""

    status = 409
    default_code = "conflict"


class BodyTooLarge(RequestError):
    """The body is over `limits.body_bytes`."""

    status = 413
    default_code = "request_too_large"


class Overloaded(JethroError):
    """A bounded queue is full."""

    status = 429
    type = "rate_limit_exceeded"
    default_code = "overloaded"


class PoolUnavailable(JethroError):
    """No healthy replica can take the request now."""

    status = 503
    type = "overloaded_error"
    default_code = "pool_unavailable"


class UpstreamError(JethroError):
    """A replica or upstream failed or broke the protocol."""

    status = 502
    default_code = "upstream_error"


class DeadlineExceeded(JethroError):
    """The deadline passed before the answer was complete."""

    status = 504
    default_code = "deadline_exceeded"


T = TypeVar("T")


async def replica_reply(awaited: Awaitable[T]) -> T:
    """The result of a call through a deployment's handle. Raises ConnectionError if its replica stopped meanwhile.

    Ray reports a stopped replica as CancelledError, which would cancel the calling task. Only a cancellation of that
    task itself is passed on.
    """
    try:
        return await awaited
    except asyncio.CancelledError as e:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the replica stopped during the call") from e
