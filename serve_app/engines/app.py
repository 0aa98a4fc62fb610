"""An Engine as a small OpenAI-compatible ASGI application: what a pool replica serves to the Gateways.

POST /v1/chat/completions, /v1/completions and /v1/count_tokens (of a prompt), of an encoder /v1/embeddings instead, and
GET /metrics (cluster secret as bearer key), GET /health (open). Raw ASGI, without a framework. Requests were validated
by a Gateway; errors are OpenAI's error object. It neither starts nor closes the engine.
"""

import asyncio
import hmac
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, cast

import orjson

from serve_app.engines.admission import Admission, Draining
from serve_app.engines.base import Engine
from serve_app.engines.embedding.request import Embedder, EmbeddingExchange
from serve_app.engines.replica_request import Receive, ReplicaRequest, Scope, Send
from serve_app.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    JethroError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    RequestError,
    UpstreamError,
)
from serve_app.tracing.spans import TraceSpan, Tracing, serving
from serve_app.types import DECISION_ID, REQUEST_ID, Endpoint
from serve_app.unrecorded import HEADER, unrecorded
from serve_app.wire.requests import COUNT_PATH, count_body, query_from_openai

logger = logging.getLogger("jethro.engines")
_POSTS: Final[Mapping[str, Endpoint]] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
_EMBEDS: Final[Mapping[str, Endpoint]] = {"/v1/embeddings": "embeddings"}
_COUNT = f"/v1{COUNT_PATH}"
_GETS = ("/health", "/metrics")
_COUNTS_AT_ONCE = 2
_UNRECORDED = HEADER.encode()
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class ReplicaApp:
    """ASGI application over one engine; see `build_replica_app`. `tracing`: set before the first request, or never."""

    tracing: Tracing | None = None

    def __init__(self, engine: Engine, *, secret: str, body_bytes: int, admission: Admission) -> None:
        self._engine = engine
        self._posts = _EMBEDS if engine.capabilities.embeddings else _POSTS
        self._key = b"Bearer " + secret.encode()
        self._body_bytes = body_bytes
        self.admission = admission
        self._counting = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def drain(self, deadline_s: float) -> bool:
        """Refuses new requests with 503, waits until the open ones are done; False if `deadline_s` passed first."""
        return await self.admission.drain(deadline_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; never raises for a request's or the engine's fault."""
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        with unrecorded(any(name == _UNRECORDED for name, _ in scope["headers"])):
            await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] in self._posts and scope["method"] == "POST":
                await self._answer(scope, receive, send)
            elif scope["path"] == _COUNT and scope["method"] == "POST":
                await self._count(scope, receive, send)
            else:
                await self._get(scope, send)
        except JethroError as error:
            await _send_error(send, error)
        except Exception:
            logger.exception("the engine of model %s failed", self._engine.model)
            await _send_error(send, UpstreamError(f"model {self._engine.model} failed; the replica's log says why"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._check_secret(headers)
        REQUEST_ID.set(headers.get(b"x-request-id", b"").decode("latin-1") or None)
        decision_id = headers.get(b"x-jethro-id", b"").decode("latin-1").partition("-")[0] or None
        DECISION_ID.set(decision_id)
        if self.tracing is None:
            await self._run(scope["path"], headers, receive, send)
            return
        span = self.tracing.request(f"POST {scope['path']}", scope["headers"])
        if not isinstance(span, TraceSpan):
            await self._run(scope["path"], headers, receive, send)
            return
        about = {"jethro.request_id": REQUEST_ID.get(), "jethro.decision_id": decision_id, "url.path": scope["path"]}
        span.set({"http.request.method": "POST", **about})
        with serving(span, UpstreamError.status):
            await self._run(scope["path"], headers, receive, _noting_status(span, send))

    async def _run(self, path: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body is not None and self._posts is _EMBEDS:
            await EmbeddingExchange(cast(Embedder, self._engine), self.admission, body).run(receive, send)
        elif body is not None:
            await ReplicaRequest(self._engine, self.admission, self._posts[path], headers, body).run(receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The number of tokens in a prompt."""
        self._check_secret(dict(scope["headers"]))
        body = await self._read(receive)
        if body is None:
            return
        if body.get("model") != self._engine.model:
            raise ModelNotFound(f"this replica runs {self._engine.model!r}, not {body.get('model')!r}", param="model")
        query = query_from_openai(body, "chat")
        async with self._counting:
            tokens = await self._engine.count_tokens(query)
        await _send(send, 200, count_body(tokens), _JSON)

    def _check_secret(self, headers: dict[bytes, bytes]) -> None:
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._key):
            raise AuthenticationFailed("wrong cluster secret: only the Gateways of this cluster may call a replica")

    async def _read(self, receive: Receive) -> dict[str, Any] | None:
        """The request's JSON object; None if the caller left before it was whole."""
        parts, size, more = list[bytes](), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._body_bytes:
                raise BodyTooLarge(f"the body is over {self._body_bytes} bytes")
        try:
            body = orjson.loads(parts[0] if len(parts) == 1 else b"".join(parts))
        except orjson.JSONDecodeError as e:
            raise RequestError(f"the body is not valid JSON: {e}") from e
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        return body

    async def _get(self, scope: Scope, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        posted = path in self._posts or path == _COUNT
        if not posted and path not in _GETS:
            raise NotFound(f"no route {path}: use {', '.join((*self._posts, _COUNT, *_GETS))}")
        if method != "GET" or posted:
            raise MethodNotAllowed(f"{path} takes {'POST' if posted else 'GET'}, not {method}")
        if path == "/metrics":
            self._check_secret(dict(scope["headers"]))
            await _send(send, 200, self._engine.metrics().encode(), _TEXT)
            return
        state = self._health()
        await _send(send, 200 if state["ok"] else 503, orjson.dumps(state, default=sorted), _JSON)

    def _health(self) -> dict[str, Any]:
        health = self._engine.health()
        draining = self.admission.draining
        return {
            "ok": health.ok and not draining,
            "draining": draining,
            "open": self.admission.open,
            "running": health.running,
            "waiting": health.waiting + self.admission.queued,
            "detail": health.detail,
            "figures": dict(health.figures),
            "model": self._engine.model,
            "capabilities": self._engine.capabilities,
        }


def build_replica_app(
    engine: Engine,
    *,
    secret: str,
    body_bytes: int = 8 * 1024 * 1024,
    max_ongoing: int = 64,
    max_queued: int = 256,
    retry_after_s: float = 1.0,
) -> ReplicaApp:
    """The application of one replica; the caller starts the engine.

    Callers must send `authorization: Bearer <secret>`. `body_bytes` bounds a request's body, `max_ongoing` the requests
    open at once in the engine, `max_queued` those that wait; beyond, 429 with Retry-After `retry_after_s`.
    """
    admission = Admission(max_open=max_ongoing, max_queued=max_queued, retry_after_s=retry_after_s)
    return ReplicaApp(engine, secret=secret, body_bytes=body_bytes, admission=admission)


def _noting_status(span: TraceSpan, send: Send) -> Send:
    """`send`, with the response's status noted on the span."""

    async def noting(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            span.answered(message["status"])
        await send(message)

    return noting


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise RuntimeError(f"a replica speaks HTTP only, not {scope['type']}")
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _send_error(send: Send, error: JethroError) -> None:
    headers = [_JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if isinstance(error, Draining):
        headers.append((b"x-jethro-draining", b"1"))
    await _send(send, error.status, orjson.dumps(error.body()), *headers)


async def _send(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
