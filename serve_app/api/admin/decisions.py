"""The decisions of all tenants, newest first, with filters; one with everything that was considered."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.admin import shapes
from serve_app.api.openapi import Operation, QueryParameter, answers
from serve_app.api.reply import json_response
from serve_app.errors import RequestError
from serve_app.gateway.services import Services
from serve_app.store.filtering import (
    MOMENTS,
    NUMBERS,
    PARAMETERS,
    STATUSES,
    DecisionFilter,
    read_cursor,
    write_cursor,
)

_LIMIT: Final = 50
_MOST: Final = 500
_DETAIL: Final = ("prompt", "features", "expected")
"""Left out of a page unless `detail` is true: a decision that is opened shows them."""
_TIME: Final = "2h, 15m or 7d for so long ago, an ISO 8601 time (UTC by default), or unix seconds."
_MOMENT: Final = (
    r"^([0-9]{1,9}[smhdw]|[0-9]{1,11}(\.[0-9]{1,6})?"
    r"|20[0-9][0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])(T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?(Z|[+-]0[0-9]:00)?)?)$"
)
_MEANINGS: Final[Mapping[str, str]] = {
    "since": f"Decisions from then on: {_TIME}",
    "until": f"Decisions before: {_TIME}",
    "pool": "The pool that answered.",
    "strategy": "The strategy that decided.",
    "status": "What became of the request.",
    "tenant": "A name in server.keys.",
    "router": "The router that scored.",
    "model": "The model that answered.",
    "endpoint": "chat, completions, messages, responses or route.",
    "user": "What requests named in `user` or `safety_identifier`.",
    "policy": "The beginning of the policy version.",
    "min_latency_ms": "Requests that took at least so long.",
    "max_latency_ms": "Requests that took at most so long.",
}


class AdminDecisions:
    """Handlers over the store."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """All of them, described."""
        many, one, id_ = "Decisions of all tenants, newest first.", "A decision of any tenant.", "The decision's id."
        return [
            Operation(
                *("GET", "/v1/admin/decisions", "admin_list_decisions", many, self.page, answers(shapes.DECISIONS)),
                errors=(400, 503),
                query=_query(),
                admin=True,
            ),
            Operation(
                *("GET", "/v1/admin/decisions/{decision_id}", "admin_get_decision", one, self.one),
                answers(shapes.RECORD),
                errors=(404, 503),
                parameters={"decision_id": id_},
                admin=True,
            ),
        ]

    async def page(self, request: Request) -> Response:
        """A page of them. `next` is the `before` of the following page, null at the end."""
        given = dict(request.query_params)
        limit = _limit(given.pop("limit", str(_LIMIT)))
        whole = _flag(given.pop("detail", "false"))
        try:
            cursor = given.pop("before", None)
            before = None if cursor is None else read_cursor(cursor)
            if unknown := sorted(given.keys() - set(PARAMETERS)):
                raise ValueError(f"{unknown[0][:40]}: no such filter; there are {', '.join(PARAMETERS)}")
            which = DecisionFilter.parse(given)
        except ValueError as e:
            name = str(e).partition(":")[0]
            raise RequestError(f"{e}.", param=name, code="invalid_value") from None
        found = await self._services.store.newest(which, before, limit + 1)
        left_out = () if whole else _DETAIL
        shown = [{k: v for k, v in record.items() if k not in left_out} for record in found[:limit]]
        more = len(found) > limit
        body = {"object": "list", "data": shown, "has_more": more, "next": write_cursor(shown[-1]) if more else None}
        return json_response(body)

    async def one(self, request: Request) -> Response:
        """With everything that was considered, and its feedback."""
        record: Mapping[str, Any] = await self._services.store.decision(request.path_params["decision_id"])
        return json_response(record)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= _MOST:
        raise RequestError(f"limit: use a whole number from 1 to {_MOST}.", param="limit", code="invalid_value")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise RequestError("detail: use true or false.", param="detail", code="invalid_value")
    return text == "true"


def _query() -> tuple[QueryParameter, ...]:
    """The parameters, described."""
    text = {"type": "string", "pattern": r"^[^\u0000]{0,256}$"}
    kinds: dict[str, dict[str, Any]] = dict.fromkeys(PARAMETERS, text)
    kinds |= {name: {"type": "number"} for name in NUMBERS}
    kinds |= {name: {"type": "string", "pattern": _MOMENT, "examples": ["2h", "2026-11-30T08:00"]} for name in MOMENTS}
    kinds["status"] = {"enum": list(STATUSES)}
    limit = {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _LIMIT}
    cursor = "`next` of the page before: decisions older than its last one."
    return (
        QueryParameter("limit", "Most decisions of a page.", limit),
        QueryParameter("before", cursor, {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,9})?:[!-~]{1,64}$"}),
        QueryParameter("detail", f"Whether to send {', '.join(_DETAIL)} too.", {"type": "boolean", "default": False}),
        *(QueryParameter(name, _MEANINGS[name], kinds[name]) for name in PARAMETERS),
    )
