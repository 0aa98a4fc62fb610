"""Which answers are kept, and where a request finds those that it continues."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import orjson

from serve_app.api.dialects.responses.reading import ReadRequest
from serve_app.config.tree import StoreConfig
from serve_app.errors import JethroError, NotFound, RequestError
from serve_app.store.base import KeptResponse, RequestRecord, Store
from serve_app.types import Privacy

logger = logging.getLogger("jethro.api")
_CLASSES: Final[dict[str | None, Privacy]] = {"private": "private", "local": "local"}
_NEVER: Final = "no response is kept here (store.keep_responses: never): send all items in input."
_GONE: Final = (
    "it was not kept (its request said store: false, or store.keep_responses requires store: true, or its privacy "
    "class was local), or it is older than store.responses_days, deleted, or another tenant's"
)


class Keeper:
    """Keeps answers in the store within the operator's settings."""

    def __init__(self, store: Store, config: StoreConfig) -> None:
        self._store, self._config = store, config

    def keeps(self, requested: bool | None, *, local: bool) -> bool:
        """Whether the answer to such a request is kept; `requested` is its `store`."""
        setting = self._config.keep_responses
        if local or setting == "never":
            return False
        return bool(requested) if setting == "requested" else requested is not False

    async def keep(
        self, record: RequestRecord, read: ReadRequest, response: dict[str, Any], items: list[dict[str, Any]]
    ) -> bool:
        """Keep an answer; False if the store cannot now: the caller gets the answer all the same."""
        assert record.decision is not None
        kept = KeptResponse(
            response["id"],
            record.origin,
            _CLASSES.get(record.decision.privacy, "any"),
            read.request.previous_response_id,
            orjson.dumps(response, default=dict),
            orjson.dumps(items),
        )
        try:
            await self._store.responses.keep(kept)
        except JethroError as e:
            logger.warning("responses: %s is not kept: %s", kept.id, e)
            return False
        return True

    async def find(self, response_id: str, tenant: str | None) -> KeptResponse:
        """One of the tenant's own. Raises NotFound."""
        return await self._store.responses.find(response_id, tenant)

    async def delete(self, response_id: str, tenant: str | None) -> None:
        """Delete one of the tenant's own. Raises NotFound."""
        await self._store.responses.delete(response_id, tenant)

    async def earlier(self, response_id: str | None, tenant: str | None, most_bytes: int) -> Sequence[KeptResponse]:
        """The conversation that a request continues, oldest first; empty for none. Raises RequestError."""
        if response_id is None:
            return ()
        if self._config.keep_responses == "never":
            raise _not_found(f"Previous response with id '{response_id}' not found: {_NEVER}")
        try:
            return await self._store.responses.chain(response_id, tenant, most_bytes)
        except NotFound:
            raise _not_found(
                f"Previous response with id '{response_id}', or one that it continues, not found: {_GONE}."
            ) from None


def _not_found(message: str) -> RequestError:
    return RequestError(message, param="previous_response_id", code="previous_response_not_found")
