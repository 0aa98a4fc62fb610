"""One request to a replica and its answer, streamed or whole; cancelled when the caller disconnects.

The status line waits for the first chunk, so that an error before it has its true HTTP status. Later an error is one
event, without `[DONE]`. Events that are ready together are sent in one write.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final

import orjson

from serve_app.engines.admission import Admission
from serve_app.engines.base import Engine
from serve_app.engines.bursts import Bursts
from serve_app.errors import JethroError, ModelNotFound, UnsupportedParameter, UpstreamError
from serve_app.tracing.model_calls import begin_engine, watched
from serve_app.tracing.spans import current_span, error_type
from serve_app.types import Chunk, Endpoint, Query, Usage
from serve_app.wire.encoding import DONE, StreamEncoder, encode_answer
from serve_app.wire.requests import query_from_openai

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("jethro.engines")
_SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
JSON: Final = (b"content-type", b"application/json")


class ReplicaRequest:
    """Runs one query through the engine. Raises JethroError or the engine's error, only before the first byte."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        endpoint: Endpoint,
        headers: Mapping[bytes, bytes],
        body: Mapping[str, Any],
    ) -> None:
        self._engine, self._admission = engine, admission
        self._stream = bool(body.get("stream"))
        options = body.get("stream_options")
        self._include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        if body.get("model") != engine.model:
            raise ModelNotFound(f"this replica runs {engine.model!r}, not {body.get('model')!r}", param="model")
        self._query = query_from_openai(body, endpoint)
        _check_images(self._query, engine)
        self._model = engine.model if self._query.adapter is None else f"{engine.model}:{self._query.adapter}"
        self._id = headers.get(b"x-jethro-id", b"").decode("latin-1") or uuid.uuid4().hex
        created = headers.get(b"x-jethro-created", b"")
        self._created = int(created) if created.isdigit() else int(time.time())

    async def run(self, receive: Receive, send: Send) -> None:
        """Answers; returns silently when the caller disconnects."""
        await answering(
            self._admission, receive, partial(self._send_stream if self._stream else self._send_whole, send)
        )

    def _bursts(self) -> Bursts[Chunk]:
        """The engine's chunks, whose time is a span of its own: before it, the request waited for a place."""
        chunks, span = self._engine.stream(self._query), begin_engine(self._query, self._model)
        return Bursts(chunks if span is None else watched(chunks, span))

    async def _send_whole(self, send: Send) -> None:
        bursts = self._bursts()
        chunks: list[Chunk] = []
        try:
            while not bursts.ended:
                chunks += await bursts.next()
        finally:
            await _close(bursts)
        finished = sum(c.finish_reason is not None for c in chunks)
        if finished != self._query.sampling.n:
            raise UpstreamError(f"the model finished {finished} of {self._query.sampling.n} choices")
        body = encode_answer(self._query, chunks, model=self._model, answer_id=self._id, created=self._created)
        headers = [JSON, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, send: Send) -> None:
        bursts = self._bursts()
        try:
            first = await bursts.next()
            if not first:
                raise UpstreamError(f"model {self._engine.model} gave no answer")
            await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
            last = await self._send_events(bursts, first, send)
        finally:
            await _close(bursts)
        await send({"type": "http.response.body", "body": last})

    async def _send_events(self, bursts: Bursts[Chunk], burst: list[Chunk], send: Send) -> bytes:
        """Sends all events but the last write, which it returns: finish, usage and `[DONE]`, or the error."""
        encoder = StreamEncoder(self._query, model=self._model, answer_id=self._id, created=self._created)
        held = b""
        try:
            while True:
                held += encoder.encode_all(burst)
                if bursts.ended or encoder.complete:
                    break
                if encoder.unfinished:
                    await send({"type": "http.response.body", "body": held, "more_body": True})
                    held = b""
                burst = await bursts.next()
            if encoder.unfinished:
                raise UpstreamError(f"model {self._engine.model} ended before all choices were finished")
        except Exception as error:
            if (span := current_span()) is not None:
                span.failed(error_type(error))
            return held + _error_event(error, self._engine.model)
        return held + (encoder.usage(encoder.last_usage or Usage()) if self._include_usage else b"") + DONE


def _check_images(query: Query, engine: Engine) -> None:
    """Raises UnsupportedParameter for an image that the engine cannot see, or that it would have to fetch."""
    can = engine.capabilities
    for image in query.images:
        if not can.vision:
            raise UnsupportedParameter(f"{image.param}: {engine.model} cannot see images", param=image.param)
        if not (image.inline or can.image_urls):
            raise UnsupportedParameter(f"{image.param}: {engine.model} fetches no images", param=image.param)


async def answering(admission: Admission, receive: Receive, answer: Callable[[], Awaitable[None]]) -> None:
    """`answer` once there is a place; cancelled when the caller disconnects, upon which this returns silently."""
    watch = _Disconnect(receive)
    try:
        await admission.enter()
        entered = time.monotonic()
        try:
            await answer()
        finally:
            admission.note(time.monotonic() - entered)
            admission.leave()
    except asyncio.CancelledError:
        if not watch.seen():
            raise
        if (span := current_span()) is not None:
            span.set({"jethro.cancelled": True})
    finally:
        watch.stop()


class _Disconnect:
    """Cancels the current task when the caller disconnects. Starts no task if this one ends without waiting."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._seen = receive, False
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._start = asyncio.get_running_loop().call_soon(self._watch)

    def seen(self) -> bool:
        """Whether the caller disconnected; undoes the cancellation that this caused."""
        if self._seen and self._task is not None:
            self._task.uncancel()
        return self._seen

    def stop(self) -> None:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._seen = True
        if self._task is not None:
            self._task.cancel()


async def _close(bursts: Bursts[Chunk]) -> None:
    """Closes the engine's iterator; its errors are only logged."""
    try:
        await bursts.aclose()
    except Exception:
        logger.exception("the engine failed while it closed a request")


def _error_event(error: Exception, model: str) -> bytes:
    if not isinstance(error, JethroError):
        logger.error("the engine of model %s failed inside a stream", model, exc_info=error)
        error = UpstreamError(f"model {model} failed; the replica's log says why")
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"
