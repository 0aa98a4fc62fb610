"""The routes of streams that are learned online: create, list, get, change the budget, delete."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.body import parse_object, read_body
from serve_app.api.middleware import CALLER, Caller
from serve_app.api.openapi import Operation, answers
from serve_app.api.query import check
from serve_app.api.reply import json_response
from serve_app.api.schemas import BudgetRequest, StreamRequest
from serve_app.errors import NotFound
from serve_app.gateway.services import Services
from serve_app.streams.base import BudgetChange, StreamCreate
from serve_app.streams.service import Streams
from serve_app.streams.spec import spec_from_json

_NAME: Final = {"name": "The stream's name."}
_CREATE_ERRORS: Final = (400, 404, 409, 413, 429, 502, 503)


class StreamRoutes:
    """Handlers over the streams of a Gateway. Without streams each answers 404 and says how to enable them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """All of them, described."""
        one, many = "/v1/streams/{name}", "/v1/streams"
        create, get = "Create a stream; if it exists, change its budget.", "A stream and its figures."
        change, delete = "Change a stream's budget; it keeps what it learned.", "Delete a stream and what it learned."
        found, listed, deleted = answers(shapes.STREAM), answers(shapes.STREAMS), answers(shapes.STREAM_DELETED)
        absent, failed = (404, 503), (400, 404, 413, 502, 503)
        return [
            Operation("POST", many, "create_stream", create, self.create, found, _CREATE_ERRORS, StreamRequest),
            Operation("GET", many, "list_streams", "List your streams.", self.all, listed, (404,)),
            Operation("GET", one, "get_stream", get, self.one, found, absent, parameters=_NAME),
            Operation("PATCH", one, "change_stream_budget", change, self.budget, found, failed, BudgetRequest, _NAME),
            Operation("DELETE", one, "delete_stream", delete, self.delete, deleted, absent, parameters=_NAME),
        ]

    async def create(self, request: Request) -> Response:
        """Create a stream."""
        streams = self._streams()
        given = check(StreamRequest, await self._body(request)).model_dump(by_alias=True)
        reset = given.pop("reset")
        optional = ["mends", "params", *(["llm_share"] if given["mu"] is None else [])]
        given = {k: v for k, v in given.items() if v is not None or k not in optional}  # the spec has its own defaults
        return json_response(await streams.create(StreamCreate(spec_from_json(given), _tenant(request), reset)))

    async def all(self, request: Request) -> Response:
        """The caller's streams."""
        return json_response({"object": "list", "data": await self._streams().all(_tenant(request))})

    async def one(self, request: Request) -> Response:
        """A stream and its figures."""
        return json_response(await self._streams().get(request.path_params["name"], _tenant(request)))

    async def budget(self, request: Request) -> Response:
        """Change the budget."""
        streams = self._streams()
        given = check(BudgetRequest, await self._body(request))
        budget = BudgetChange(given.mu, given.llm_share, given.horizon)
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
