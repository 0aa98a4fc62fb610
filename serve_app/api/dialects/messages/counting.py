"""POST /v1/messages/count_tokens: by the tokenizer of the pool that would answer, else an estimate that says so.

No model is called and nothing is recorded. The router decides as it would for the request itself, and a request is
counted only where it may go.
"""

import logging
import math
from time import monotonic
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.body import parse_object, read_body
from serve_app.api.dialects.messages.reading import counted_request
from serve_app.api.middleware import CALLER, Caller, Ids
from serve_app.api.query import hinted, requested_class
from serve_app.api.reply import INTERNAL, json_response
from serve_app.errors import ContextLengthExceeded, JethroError
from serve_app.gateway.services import Services
from serve_app.pools.base import CountingPool
from serve_app.types import REACH, Decision, Query
from serve_app.unrecorded import Undecided
from serve_app.wire.frames import Call
from serve_app.wire.requests import query_to_openai

logger = logging.getLogger("jethro.api")

COUNTED_BY: Final = "x-jethro-token-count"
"""Response header: `counted` or `estimated`."""
_BYTES_PER_TOKEN: Final = 4
_LONGEST_S: Final = 10.0


def estimated_tokens(query: Query) -> int:
    """A token for four bytes of the request as a model's server receives it, rounded up: about right for English."""
    body = query_to_openai(query, model="", stream=False)
    return math.ceil(len(orjson.dumps(body)) / _BYTES_PER_TOKEN)


class TokenCounter:
    """The handler, over the services of a Gateway."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ids = Ids()

    async def count(self, request: Request) -> Response:
        """Answer one request."""
        caller: Caller = request.scope[CALLER]
        services = self._services
        body = parse_object(await read_body(request.scope, request.receive, services.config.limits.body_bytes))
        given, query = counted_request(body, services.config.limits, caller.tenant)
        services.limiter.enter(caller.tenant)
        reach = REACH.set(None)
        try:
            with Undecided() as undecided:
                query, counted = await self._decided(given.model, query, request, undecided)
        finally:
            REACH.reset(reach)
            services.limiter.leave(caller.tenant)
        tokens = estimated_tokens(query) if counted is None else counted
        response = json_response({"input_tokens": tokens})
        response.headers[COUNTED_BY] = "estimated" if counted is None else "counted"
        return response

    async def _decided(
        self, model: str, query: Query, request: Request, undecided: Undecided
    ) -> tuple[Query, int | None]:
        """The query with its class and reach, and its tokens as the pool that would answer counts them.

        What fails unexpectedly is logged here, where the request's class is known.
        """
        services, headers = self._services, request.headers.raw
        caller: Caller = request.scope[CALLER]
        try:
            query = hinted(query, headers)
            call = Call(self._ids.new(), caller.request_id, 0, monotonic() + _LONGEST_S, may_wait=False)
            if services.placement is not None:
                query = (await services.placement.place(query, requested_class(headers), call)).query
            undecided.decide(query.stays_unrecorded)
            REACH.set(query.reach)
            decision = await services.catalogue.resolve(model).decide(query, call.id)
            return query, await self._counted(query, decision, call)
        except JethroError:
            raise
        except Exception as e:
            logger.exception("request %s failed", caller.request_id)
            raise JethroError(INTERNAL) from e

    async def _counted(self, query: Query, decision: Decision, call: Call) -> int | None:
        """By the pool that would answer; None where it cannot count, now or at all."""
        pool = self._services.pools.get(decision.pool)
        if not isinstance(pool, CountingPool):
            return None
        try:
            return await pool.count_tokens(query, call)
        except ContextLengthExceeded:
            return None
        except JethroError as error:
            if error.status < 500 and not error.retryable:
                raise
            logger.warning("pool %s counts no tokens now: status %d", decision.pool, error.status)
            return None
