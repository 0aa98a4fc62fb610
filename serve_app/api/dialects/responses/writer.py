"""Writes the answer to one request of /v1/responses: the response object, or the events that lead to it."""

import logging
import secrets
from collections.abc import Iterable
from time import time
from typing import Any, Final

import orjson

from serve_app.api.dialects.pieces import PieceReader
from serve_app.api.dialects.responses.assembler import Event, OutputAssembler
from serve_app.api.dialects.responses.conversation import in_own_words
from serve_app.api.dialects.responses.ids import identified, response_id
from serve_app.api.dialects.responses.keeping import Keeper
from serve_app.api.dialects.responses.reading import ReadRequest
from serve_app.api.dialects.responses.response_object import (
    ResponseStatus,
    echo,
    failure,
    incomplete_details,
    status_of,
    usage_shown,
)
from serve_app.api.reply import jethro_object
from serve_app.errors import JethroError, RequestError, UpstreamError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision
from serve_app.wire.frames import Answer, Frame

logger = logging.getLogger("jethro.api")
_PADDED: Final = 16
"""Pieces are padded to multiples of so many characters where the caller requires that their lengths are hidden."""


class ResponsesWriter:
    """See Writer."""

    def __init__(self, read: ReadRequest, keeper: Keeper) -> None:
        options = read.request.stream_options
        self._read, self._keeper = read, keeper
        self._echo = echo(read.request, read.given)
        self._created_s = int(time())
        self._pads = options is not None and bool(options.include_obfuscation)
        self._sequence = 0
        self._id, self._model = "", ""
        self._pieces = PieceReader()
        self._assembler: OutputAssembler

    def begin(self, decision: Decision) -> bytes:
        """See Writer: the response as it begins, twice, as OpenAI sends it."""
        self._decided(decision)
        store = self._keeper.keeps(self._read.request.store, local=decision.privacy == "local")
        response = self._response("in_progress", store=store)
        names = ("response.created", "response.in_progress")
        return self._sent({"type": name, "response": response} for name in names)

    def passed(self, frame: Frame) -> bytes:
        """See Writer."""
        return self._sent(event for piece in self._pieces.frame(frame) for event in self._assembler.add(piece))

    async def end(self, record: RequestRecord) -> bytes:
        """See Writer. The response is kept before the caller learns that it is complete."""
        if self._assembler.finish is None:
            raise UpstreamError("The model's stream ended without a finish reason.")
        last = self._sent(self._assembler.end())
        response = await self._ended(record)
        return last + self._sent([{"type": f"response.{response['status']}", "response": response}])

    def broken(self, error: JethroError) -> bytes:
        """See Writer: an error event, and the response that failed."""
        error = in_own_words(error) if isinstance(error, RequestError) else error
        said = {"code": error.code, "message": error.message, "param": error.param}
        self._assembler.abandon()
        response = self._response("failed", store=False) | {"error": failure(error)}
        return self._sent([{"type": "error", **said}, {"type": "response.failed", "response": response}])

    async def whole(self, answer: Answer, record: RequestRecord) -> bytes:
        """See Writer."""
        assert record.decision is not None
        self._decided(record.decision)
        for piece in self._pieces.whole(answer):
            for _ in self._assembler.add(piece):
                pass
        for _ in self._assembler.end():
            pass
        return orjson.dumps(await self._ended(record))

    def _decided(self, decision: Decision) -> None:
        self._id, self._model = decision.id, decision.model
        self._assembler = OutputAssembler(decision.id, logprobs=self._read.request.logprobs)

    async def _ended(self, record: RequestRecord) -> dict[str, Any]:
        """The whole response, kept if it is to be: what it says of that is true."""
        assert record.decision is not None
        finish = self._assembler.finish
        status = status_of(finish)
        keeps = self._keeper.keeps(self._read.request.store, local=record.unrecorded)
        response = self._response(status, store=keeps) | {
            "completed_at": int(time()) if status == "completed" else None,
            "incomplete_details": incomplete_details(finish),
            "usage": usage_shown(self._assembler.usage, record.usage_to_show, record.answer_usage),
            "jethro": orjson.Fragment(jethro_object(record.decision, record)),
        }
        if keeps:
            items = identified(self._read.items, self._id)
            kept = await self._keeper.keep(record, self._read, response, items)
            response["store"] = kept
        return response

    def _response(self, status: ResponseStatus, *, store: bool) -> dict[str, Any]:
        output = [] if status == "in_progress" else self._assembler.output
        return {
            "id": response_id(self._id),
            "object": "response",
            "created_at": self._created_s,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": output,
            **self._echo,
            "store": store,
            "usage": None,
        }

    def _sent(self, events: Iterable[Event]) -> bytes:
        """The events with their numbers, as bytes."""
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        name: str = event["type"]
        numbered: Event = {**event, "sequence_number": self._sequence}
        self._sequence += 1
        if self._pads and "delta" in event:
            numbered["obfuscation"] = secrets.token_urlsafe(_PADDED)[: _PADDED - len(event["delta"]) % _PADDED]
        return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(numbered, default=dict) + b"\n\n"
