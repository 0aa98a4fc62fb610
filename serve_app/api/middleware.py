"""The outermost layer, plain ASGI: request id, keys, the short way to the hot routes, and errors of last resort.

Headers that begin with x-jethro- belong to the server: of a caller's, only x-jethro-privacy and -task are read, by the
routes that call models.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.dialects.base import Refusals, Speakers
from serve_app.api.http.paths import Paths, rewrite
from serve_app.api.reply import INTERNAL, Headers, send_error
from serve_app.errors import AuthenticationFailed, JethroError, PermissionDenied
from serve_app.gateway.services import Services
from serve_app.types import REQUEST_ID

logger = logging.getLogger("jethro.api")

CALLER: Final = "jethro.caller"
METRICS: Final = "/metrics"
ADMIN: Final = "/v1/admin/"
"""Prefix of the operator's routes."""
_LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request; `tenant` is None without keys or on an open route."""

    request_id: str
    tenant: str | None


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's x-request-id if it is short visible ASCII."""
    for name, value in headers:
        if name == b"x-request-id":
            if 0 < len(value) <= _LONGEST_ID and value.isascii():
                text = value.decode("ascii")
                if text.isprintable() and " " not in text:
                    return text
            break
    return None


def _shows_pages(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser asks, and not a program: it names HTML among what it accepts."""
    return any(name == b"accept" and b"text/html" in value for name, value in headers)


async def _to_console(send: Send) -> None:
    """A relative redirect, so that it holds behind a proxy that serves the endpoint below a path of its own."""
    headers = [(b"location", b"console"), (b"vary", b"accept"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


_BYTES: Final = 12
_AT_ONCE: Final = 256


class Ids:
    """Makes unguessable ids of 24 hexadecimal digits, a few hundred per system call. For one thread."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def new(self) -> str:
        """An unguessable id."""
        if self._at == len(self._digits):
            self._digits, self._at = os.urandom(_BYTES * _AT_ONCE).hex(), 0
        start, self._at = self._at, self._at + 2 * _BYTES
        return self._digits[start : self._at]


class Keys:
    """Callers' keys, kept as digests. Every key is compared at every request, in constant time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` maps tenant to key."""
        self._digests = [(tenant, _digest(key.encode())) for tenant, key in keys.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The tenant of a request by its ASGI headers; None if there are no keys. Raises AuthenticationFailed."""
        if not self._digests:
            return None
        given = _digest(_key(headers))
        found: str | None = None
        for tenant, digest in self._digests:
            if hmac.compare_digest(digest, given):
                found = tenant
        if found is None:
            raise AuthenticationFailed(f"Incorrect API key: send a valid one {_AS}.")
        return found


_AS: Final = "as `Authorization: Bearer <key>` or as `x-api-key: <key>`"


def _key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a request, wherever it is sent. Raises AuthenticationFailed without, and for two that differ."""
    bearer = plain = b""
    for name, value in headers:
        if name == b"authorization" and not bearer:
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                bearer = key.strip()
        elif name == b"x-api-key" and not plain:
            plain = value.strip()
    if bearer and plain and not hmac.compare_digest(_digest(bearer), _digest(plain)):
        raise AuthenticationFailed(
            "Authorization and x-api-key hold different keys: send one of them, or the same in both."
        )
    if not (bearer or plain):
        raise AuthenticationFailed(f"No API key given: send it {_AS}.", code="missing_api_key")
    return bearer or plain


def _digest(key: bytes) -> bytes:
    """Of equal length for every key, so that a comparison reveals nothing about it."""
    return hashlib.sha256(key).digest()


def _closing(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The header that closes the connection if there is a body: it stays unread, however long it is."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" 0")):
            return [(b"connection", b"close")]
    return []


_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_KEY_HEADERS: Final = (b"authorization", b"x-api-key")


class AdminKey:
    """The operator's key. Without one nothing can be changed; reads are open where callers need no keys either.

    A key that is sent is checked even where none is needed: who sends a wrong one should learn it.
    """

    def __init__(self, key: str | None, *, open_reads: bool) -> None:
        self._keys = Keys({"admin": key}) if key is not None else None
        self._open_reads = open_reads

    def check(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises AuthenticationFailed for a missing or wrong key, PermissionDenied where none is configured."""
        reads = method in _READS
        if self._keys is None:
            if reads and self._open_reads:
                return
            raise PermissionDenied(
                "The operator's routes are closed: set server.admin_key_env to the name of an environment variable "
                "that holds a key of your own, restart, and send it as `Authorization: Bearer <key>`.",
                code="admin_key_not_configured",
            )
        if reads and self._open_reads and not any(name in _KEY_HEADERS for name, _ in headers):
            return
        self._keys.tenant(headers)


class GatewayMiddleware:
    """Wraps `app`. `hot` maps paths of POST routes to their ASGI apps; paths in `open_paths` need no key.

    `routes`: the paths of all routes; other forms of them lead to the same route, see `Paths`.

    `/metrics` shows all tenants' figures: where keys are set it has a key of its own, or is closed. The operator's
    routes have one too, see `AdminKey`.
    """

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        *,
        hot: Mapping[str, ASGIApp],
        open_paths: frozenset[str],
        speakers: Speakers,
        routes: Collection[str],
    ) -> None:
        self._app = app
        self._speakers = speakers
        self._known, self._paths = frozenset(routes), Paths(routes)
        self._recorder = services.recorder
        self._ids = Ids()
        self._keys = Keys(services.keys)
        self._metrics_keys = Keys({"metrics": services.metrics_key}) if services.metrics_key else None
        self._admin_key = AdminKey(services.admin_key, open_reads=not services.keys)
        self._hot = hot
        self._open = open_paths
        self._browsed = services.config.server.expose_console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        path = get_route_path(scope)
        if path not in self._known and (found := self._paths.canonical(path, scope["method"])) != path:
            rewrite(scope, path, found)
            path = found
        if path == "/" and self._browsed and _shows_pages(headers) and scope["method"] in ("GET", "HEAD"):
            await _to_console(send)
            return
        id_ = request_id(headers) or f"req-{self._ids.new()}"
        previous = REQUEST_ID.set(id_)
        try:
            try:
                tenant = None if path in self._open else self._tenant(scope["method"], path, headers)
            except JethroError as error:
                self._recorder.unauthorized(error.code)
                shape = self._speakers.of(path)
                await send_error(send, error, [*shape.headers(id_), *_closing(headers)], body=shape.refusal(error))
                return
            scope[CALLER] = Caller(id_, tenant)
            if scope["method"] == "POST" and path in self._hot:
                await self._hot[path](scope, receive, send)
            else:
                shape = self._speakers.of(path)
                ours = [*shape.headers(id_), *(_closing(headers) if path in self._open else ())]
                await self._cold(scope, receive, send, ours, shape)
        finally:
            REQUEST_ID.reset(previous)

    def _tenant(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        if path.startswith(ADMIN):
            self._admin_key.check(method, headers)
            return None
        if path != METRICS or not self._keys:
            return self._keys.tenant(headers)
        if self._metrics_keys is None:
            raise AuthenticationFailed("/metrics is closed: its key is set by server.metrics_key_env.")
        return self._metrics_keys.tenant(headers)

    async def _cold(self, scope: Scope, receive: Receive, send: Send, ours: Headers, shape: Refusals) -> None:
        """The other routes; adds our headers to their responses."""
        begun = False

        async def tagged(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception:
            logger.exception("request %s to %r failed", scope[CALLER].request_id, scope["path"][:200])
            if not begun:
                error = JethroError(INTERNAL)
                await send_error(tagged, error, [], body=shape.refusal(error))
