"""Answers of /v1/responses in the decision log's file, so that a later request can continue them, by any Gateway.

Bounded for each tenant by age, number and bytes: the oldest make room. One that is too old counts as gone from that
moment on, and is deleted with the next write or the hourly cleaning. Deleted bytes are overwritten.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, insert, select
from sqlalchemy import delete as delete_from

from serve_app.config.tree import StoreConfig
from serve_app.erasure import Origin
from serve_app.errors import NotFound, RequestError
from serve_app.store.base import KeptResponse
from serve_app.store.database import Database
from serve_app.store.schema import responses

_DAY_S: Final = 86_400.0
_USERS: Final = 2
T = TypeVar("T")


class Ask(Protocol):
    """Has the writer's thread call a function of the open file. Raises PoolUnavailable if there is none now."""

    def __call__(self, call: Callable[[Database], T]) -> Awaitable[T]:
        """The result of `call`."""


class SqliteResponses:
    """See ResponseStore. `clock` gives unix seconds."""

    def __init__(self, config: StoreConfig, ask: Ask, clock: Callable[[], float]) -> None:
        self._config, self._ask, self._clock = config, ask, clock

    async def keep(self, response: KeptResponse) -> None:
        """See ResponseStore."""
        write = partial(_write, response=response, config=self._config, oldest_s=self._oldest_s)
        await self._ask(lambda database: database.keep(response, write))

    async def find(self, response_id: str, tenant: str | None) -> KeptResponse:
        """See ResponseStore."""
        oldest_s = self._oldest_s
        return await self._ask(lambda database: database.within(lambda c: _found(c, response_id, tenant, oldest_s)))

    async def chain(self, response_id: str, tenant: str | None, most_bytes: int) -> Sequence[KeptResponse]:
        """See ResponseStore."""
        read = partial(_chain, response_id=response_id, tenant=tenant, oldest_s=self._oldest_s, most_bytes=most_bytes)
        return await self._ask(lambda database: database.within(read))

    async def delete(self, response_id: str, tenant: str | None) -> None:
        """See ResponseStore."""
        oldest_s = self._oldest_s
        call = partial(_delete, response_id=response_id, tenant=tenant, oldest_s=oldest_s)
        await self._ask(lambda database: database.within(call, deletes=True))

    @property
    def _oldest_s(self) -> float:
        return self._clock() - min(self._config.responses_days, self._config.keep_days) * _DAY_S


def unknown_response(response_id: str) -> NotFound:
    """There is none of that id, or it is another tenant's."""
    return NotFound(f"Response with id '{response_id[:100]}' not found.")


def _own(tenant: str | None) -> list[ColumnElement[bool]]:
    """Without keys there are no tenants, and every caller reaches all."""
    return [] if tenant is None else [responses.c.tenant == tenant]


def _write(connection: Connection, response: KeptResponse, config: StoreConfig, oldest_s: float) -> None:
    origin = response.origin
    user, safety_identifier = (*origin.users, None, None)[:_USERS]
    values: dict[str, Any] = {
        "response_id": response.id,
        "decision_id": origin.decision_id,
        "created_s": origin.created_s,
        "tenant": origin.tenant,
        "user": user,
        "safety_identifier": safety_identifier,
        "privacy": response.privacy,
        "previous_id": response.previous_id,
        "size": response.size,
        "body": response.body,
        "input": response.input,
    }
    connection.execute(insert(responses).values(**values))
    connection.execute(delete_from(responses).where(responses.c.created_s < oldest_s))
    _make_room(connection, origin.tenant, config)


def _make_room(connection: Connection, tenant: str | None, config: StoreConfig) -> None:
    """Delete the tenant's oldest beyond the bounds; read from the index alone."""
    query = select(responses.c.created_s, responses.c.size).where(responses.c.tenant == tenant)
    left, room, last_s = config.responses_most, config.responses_bytes, None
    for created_s, size in connection.execute(query.order_by(responses.c.created_s.desc())):
        left, room = left - 1, room - size
        if left < 0 or room < 0:
            last_s = created_s
            break
    if last_s is not None:
        old = (responses.c.tenant == tenant, responses.c.created_s <= last_s)
        connection.execute(delete_from(responses).where(*old))


def _found(connection: Connection, response_id: str, tenant: str | None, oldest_s: float) -> KeptResponse:
    own = (responses.c.response_id == response_id, responses.c.created_s >= oldest_s, *_own(tenant))
    row = connection.execute(select(responses).where(*own)).first()
    if row is None:
        raise unknown_response(response_id)
    return _kept(row)


def _kept(row: Row[Any]) -> KeptResponse:
    users = tuple(user for user in (row.user, row.safety_identifier) if user is not None)
    origin = Origin(row.decision_id, row.tenant, users, row.created_s)
    return KeptResponse(row.response_id, origin, row.privacy, row.previous_id, row.body, row.input)


def _chain(
    connection: Connection, response_id: str, tenant: str | None, oldest_s: float, most_bytes: int
) -> list[KeptResponse]:
    found: list[KeptResponse] = []
    next_id: str | None = response_id
    while next_id is not None:
        found.append(_found(connection, next_id, tenant, oldest_s))
        next_id = found[-1].previous_id
        most_bytes -= found[-1].size
        if most_bytes < 0:
            raise RequestError(
                "The conversation that previous_response_id continues is longer than a request may be: begin a new "
                "one, with a summary of it.",
                param="previous_response_id",
                code="context_length_exceeded",
            )
    return found[::-1]


def _delete(connection: Connection, response_id: str, tenant: str | None, oldest_s: float) -> None:
    _found(connection, response_id, tenant, oldest_s)
    connection.execute(delete_from(responses).where(responses.c.response_id == response_id))
