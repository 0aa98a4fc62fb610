"""The routes of stored decisions: one, those of a user, those of the caller's tenant; each can be read and deleted.

What is deleted is the record with its feedback, and in the streams' journals the texts. A caller reaches only the
records of its own tenant; without keys there are no tenants, and it reaches all.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from time import time
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.api import shapes
from serve_app.api.middleware import CALLER, Caller
from serve_app.api.openapi import Content, Operation, answers
from serve_app.api.reply import json_response
from serve_app.erasure import Selection
from serve_app.errors import RequestError
from serve_app.gateway.services import Services
from serve_app.store.base import Erased

_ONE: Final = "/v1/decisions/{decision_id}"
_ALL: Final = "/v1/decisions"
_OF_USER: Final = "/v1/users/{user:path}/decisions"
_ID: Final = {"decision_id": "The id in x-jethro-decision-id or in the `jethro` object."}
_USER: Final = {"user": "What requests named in `user` or `safety_identifier`."}
_CONFIRM: Final = "all"
_LINES: Final = "application/x-ndjson"


class DecisionRoutes:
    """Handlers over the store and the streams."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """All of them, described."""
        get, delete = "A decision, its result, and its feedback.", "Delete a decision and its feedback."
        export, delete_all = "All your decisions, as JSON lines.", "Delete all your decisions and their feedback."
        of_user, delete_user = "A user's decisions, as JSON lines.", "Delete a user's decisions and their feedback."
        record, one_gone, gone = (
            answers(s) for s in (shapes.RECORD, shapes.DECISION_DELETED, shapes.DECISIONS_DELETED)
        )
        lines: dict[int, tuple[Content, ...]] = {200: (Content(shapes.RECORDS, media_type=_LINES),)}
        absent = (404, 503)  # of a user too: `..` cannot be in a path
        return [
            Operation("GET", _ONE, "get_decision", get, self.one, record, absent, parameters=_ID),
            Operation("DELETE", _ONE, "delete_decision", delete, self.delete, one_gone, absent, parameters=_ID),
            Operation("GET", _ALL, "export_decisions", export, self.export, lines, (503,)),
            Operation("DELETE", _ALL, "delete_decisions", delete_all, self.erase, gone, (400, 503), confirm=_CONFIRM),
            Operation("GET", _OF_USER, "export_user", of_user, self.export, lines, absent, parameters=_USER),
            Operation("DELETE", _OF_USER, "delete_user", delete_user, self.erase_user, gone, absent, parameters=_USER),
        ]

    async def one(self, request: Request) -> Response:
        """A decision with its result and feedback. Another tenant's does not exist for the caller."""
        selection = _selection(request)
        return json_response(await self._services.store.decision(request.path_params["decision_id"], selection.tenant))

    async def delete(self, request: Request) -> Response:
        """Delete a decision."""
        selection = _selection(request)
        id_ = request.path_params["decision_id"]
        await self._services.store.decision(id_, selection.tenant)
        await self._erase(selection)
        return json_response({"id": id_, "object": "decision", "deleted": True})

    async def export(self, request: Request) -> Response:
        """Decisions of a user or of the tenant, as JSON lines."""
        pages = self._services.store.export(_selection(request))
        first: Sequence[Mapping[str, Any]] = await anext(pages, [])  # an error before it has its true status
        return StreamingResponse(_lines(first, pages), media_type=_LINES)

    async def erase(self, request: Request) -> Response:
        """Delete all decisions of the tenant."""
        if request.query_params.get(_CONFIRM) != "true":
            raise RequestError(
                f"This deletes all your decisions: repeat it with ?{_CONFIRM}=true, or name one, or a user.",
                param=_CONFIRM,
                code="missing_required_parameter",
            )
        return await self.erase_user(request)

    async def erase_user(self, request: Request) -> Response:
        """Delete a user's decisions."""
        gone = await self._erase(_selection(request))
        body = {"object": "decisions.deleted", "decisions": gone.decisions, "feedback": gone.feedback}
        return json_response(body)

    async def _erase(self, selection: Selection) -> Erased:
        """In the store and in the streams' journals; an error of either is the caller's, who repeats both."""
        services, before_s = self._services, time()
        gone = await services.store.erase(selection)
        if services.streams is not None:
            await services.streams.erase(selection, before_s)
        return gone


def _selection(request: Request) -> Selection:
    """Of the caller's tenant: what the path names."""
    caller: Caller = request.scope[CALLER]
    named = request.path_params
    return Selection(caller.tenant, named.get("user"), named.get("decision_id"))


async def _lines(
    first: Sequence[Mapping[str, Any]], others: AsyncIterator[Sequence[Mapping[str, Any]]]
) -> AsyncIterator[bytes]:
    yield _json_lines(first)
    async for page in others:
        yield _json_lines(page)


def _json_lines(page: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(record, default=dict) + b"\n" for record in page)
