"""The routes of /v1/responses, described: answering one, and those over kept ones."""

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serve_app.api.dialects.responses import shapes
from serve_app.api.dialects.responses.keeping import Keeper
from serve_app.api.dialects.responses.schemas import ResponsesRequest
from serve_app.api.middleware import CALLER, Caller
from serve_app.api.openapi import Content, Operation, QueryParameter, answers
from serve_app.api.reply import json_response
from serve_app.errors import NotFound, RequestError, UnsupportedParameter

_PATH: Final = "/v1/responses"
_ONE: Final = f"{_PATH}/{{response_id}}"
_ID: Final = {"response_id": "The response's id."}
_ERRORS: Final = (400, 403, 404, 413, 429, 500, 502, 503, 504)
_MOST, _LIMIT = 100, 20
_ORDERS: Final = ("desc", "asc")


class ResponsesRoutes:
    """Handlers over kept responses."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def operations(self, answering: ASGIApp) -> list[Operation]:
        """All of them, described; `answering` runs POST /v1/responses."""
        stream = Content(shapes.RESPONSE_EVENTS, media_type="text/event-stream")
        answered: dict[int, tuple[Content, ...]] = {200: (Content(shapes.RESPONSE), stream)}
        said, one, gone = "Answer a conversation, in OpenAI's newer format.", "A kept response.", "Delete one for good."
        items, cut = "The input of a kept response.", "Stop a response: only those in the background, of which none is."
        deleted, listed = answers(shapes.RESPONSE_DELETED), answers(shapes.INPUT_ITEMS)
        known = {"errors": (404, 503), "parameters": _ID}
        checked = {"errors": (400, 404, 503), "parameters": _ID}
        return [
            Operation(
                *("POST", _PATH, "create_response", said, answering, answered, _ERRORS, ResponsesRequest), placed=True
            ),
            Operation("GET", _ONE, "get_response", one, self.one, answers(shapes.RESPONSE), **checked),  # type: ignore[arg-type]
            Operation("DELETE", _ONE, "delete_response", gone, self.delete, deleted, **known),  # type: ignore[arg-type]
            Operation("POST", f"{_ONE}/cancel", "cancel_response", cut, self.cancel, {}, **checked),  # type: ignore[arg-type]
            Operation(
                *("GET", f"{_ONE}/input_items", "list_input_items", items, self.input_items, listed),
                **checked,  # type: ignore[arg-type]
                query=_query(),
            ),
        ]

    async def one(self, request: Request) -> Response:
        """A response as it was given. A stream of it is not kept."""
        if request.query_params.get("stream", "false").lower() not in ("false", "0", ""):
            raise UnsupportedParameter(
                "stream: the events of a response are not kept: leave it out to get the response itself.",
                param="stream",
            )
        kept = await self._keeper.find(*_addressed(request))
        return Response(kept.body, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        """Delete one for good."""
        id_, tenant = _addressed(request)
        await self._keeper.delete(id_, tenant)
        return json_response({"id": id_, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """Refused, as by OpenAI for a response that is not in the background."""
        await self._keeper.find(*_addressed(request))
        raise RequestError(
            "Cannot cancel a synchronous response: close its connection to stop it.",
            param="response_id",
            code="invalid_value",
        )

    async def input_items(self, request: Request) -> Response:
        """A page of the items of a response's own input; newest first unless `order` is asc."""
        given = request.query_params
        limit, order, after = _limit(given.get("limit")), given.get("order", _ORDERS[0]), given.get("after")
        if order not in _ORDERS:
            raise RequestError("order: use asc or desc.", param="order", code="invalid_value")
        kept = await self._keeper.find(*_addressed(request))
        items: list[dict[str, Any]] = orjson.loads(kept.input)
        if order == "desc":
            items = items[::-1]
        if after is not None:
            place = next((i for i, item in enumerate(items) if item["id"] == after), None)
            if place is None:
                raise NotFound(f"Item with id '{after[:100]}' not found.", param="after")
            items = items[place + 1 :]
        page = items[:limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return json_response({"object": "list", "data": page, **ends, "has_more": len(items) > limit})


def _addressed(request: Request) -> tuple[str, str | None]:
    caller: Caller = request.scope[CALLER]
    return request.path_params["response_id"], caller.tenant


def _limit(given: str | None) -> int:
    if given is None:
        return _LIMIT
    if not (given.isascii() and given.isdecimal() and len(given) < 9 and 1 <= int(given) <= _MOST):
        raise RequestError(f"limit: use a whole number from 1 to {_MOST}.", param="limit", code="invalid_value")
    return int(given)


def _query() -> tuple[QueryParameter, ...]:
    limit = {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _LIMIT}
    return (
        QueryParameter("limit", "Most items of a page.", limit),
        QueryParameter("order", "By their place in the input.", {"enum": list(_ORDERS), "default": _ORDERS[0]}),
        QueryParameter("after", "`last_id` of the page before.", {"type": "string", "minLength": 1}),
    )
