"""The routes of streams: make, list, show, change the budget of and forget a stream that is learned online."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.body import parse_object, read_body
from serve_app.api.caller import CALLER, Caller
from serve_app.api.openapi import Content, Operation
from serve_app.api.query import check
from serve_app.api.reply import json_response
from serve_app.api.schemas import BudgetRequest, StreamRequest
from serve_app.errors import NotFound
from serve_app.gateway.services import Services
from serve_app.streams.base import Budget, Wanted
from serve_app.streams.online.base import StreamSpec
from serve_app.streams.service import Streams

_NAME: Final = {"name": "The stream's name."}
_STREAM: Final[tuple[Content, ...]] = (Content(shapes.STREAM),)
_MADE: Final = (400, 404, 409, 413, 429, 502, 503)


class StreamRoutes:
    """Handlers over the streams of a Gateway. Where streams are not enabled each answers 404 and says how to."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """All of them, described."""
        one, many = "/v1/streams/{name}", "/v1/streams"
        summary = "Make a stream; the same one again changes its budget alone."
        return [
            Operation("POST", many, "create_stream", summary, self.create, {200: _STREAM}, _MADE, StreamRequest),
            Operation(
                "GET", many, "list_streams", "List your streams.", self.all, {200: (Content(shapes.STREAMS),)}, (404,)
            ),
            Operation(
                "GET",
                one,
                "get_stream",
                "A stream and its figures.",
                self.one,
                {200: _STREAM},
                (404, 503),
                parameters=_NAME,
            ),
            Operation(
                "PATCH",
                one,
                "change_stream_budget",
                "Give a stream another budget; what was learned stays.",
                self.budget,
                {200: _STREAM},
                (400, 404, 413, 502, 503),
                BudgetRequest,
                _NAME,
            ),
            Operation(
                "DELETE",
                one,
                "delete_stream",
                "Forget a stream and all that was learned.",
                self.delete,
                {200: (Content(shapes.STREAM_DELETED),)},
                (404, 503),
                parameters=_NAME,
            ),
        ]

    async def create(self, request: Request) -> Response:
        """Make a stream."""
        streams = self._streams()
        told = check(StreamRequest, await self._body(request)).model_dump()
        reset = told.pop("reset")
        unsaid = ["mends", "params", *(["llm_share"] if told["mu"] is None else [])]
        told = {k: v for k, v in told.items() if v is not None or k not in unsaid}  # the spec has its own defaults
        spec = StreamSpec(**{**told, "labels": tuple(told["labels"]), "levels": tuple(told["levels"])})
        return json_response(await streams.create(Wanted(spec, _tenant(request), reset)))

    async def all(self, request: Request) -> Response:
        """The caller's streams."""
        return json_response({"object": "list", "data": await self._streams().all(_tenant(request))})

    async def one(self, request: Request) -> Response:
        """A stream and its figures."""
        return json_response(await self._streams().get(request.path_params["name"], _tenant(request)))

    async def budget(self, request: Request) -> Response:
        """Another budget."""
        streams = self._streams()
        told = check(BudgetRequest, await self._body(request))
        budget = Budget(told.mu, told.llm_share, told.horizon)
        return json_response(await streams.budget(request.path_params["name"], budget, _tenant(request)))

    async def delete(self, request: Request) -> Response:
        """Forget a stream."""
        name = request.path_params["name"]
        await self._streams().delete(name, _tenant(request))
        return json_response({"id": name, "object": "stream", "deleted": True})

    def _streams(self) -> Streams:
        streams = self._services.streams
        if streams is None:
            raise NotFound("Streams are not enabled here: set streams.enabled to true.", code="streams_disabled")
        return streams

    async def _body(self, request: Request) -> dict[str, Any]:
        body = await read_body(request.scope, request.receive, self._services.config.limits.body_bytes)
        return parse_object(body)


def _tenant(request: Request) -> str | None:
    caller: Caller = request.scope[CALLER]
    return caller.tenant
