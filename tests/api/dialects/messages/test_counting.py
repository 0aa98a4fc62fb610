"""Counts of tokens: by the pool that would answer, else estimated and said so."""

from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ContextLengthExceeded, PoolUnavailable, UnsupportedParameter
from serve_app.gateway.services import Services, placed_pools
from serve_app.guards.personal.detector import PersonalData
from serve_app.placement.policy import PlacementPolicy
from serve_app.types import Query
from serve_app.wire.frames import Call
from tests.api.fakes import DictStore, FakeCatalogue, FakePool, config, services
from tests.fakes import FakeEngine

HI: dict[str, Any] = {"model": "jethro", "messages": [{"role": "user", "content": "hello"}]}
LONG = {**HI, "messages": [{"role": "user", "content": "long " * 100}]}


@dataclass
class Counting(FakePool):
    """Counts 7, or raises."""

    fault: Exception | None = None
    counted: list[Query] = field(default_factory=list)

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        self.counted.append(query)
        if self.fault is not None:
            raise self.fault
        return 7


async def count(parts: Services, body: dict[str, Any], **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(build_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro", headers=headers) as client:
        return await client.post("/v1/messages/count_tokens", json=body)


def found(response: httpx.Response) -> tuple[int, str]:
    assert response.status_code == 200, response.text
    return response.json()["input_tokens"], response.headers["x-jethro-token-count"]


async def test_the_pool_that_would_answer_counts() -> None:
    small, store = Counting(), DictStore()
    parts = services(small=small, change=lambda made: made.update(store=store))
    assert found(await count(parts, HI)) == (7, "counted")
    assert found(await count(parts, LONG))[1] == "estimated"  # the large pool would answer, and cannot count
    assert len(small.counted) == 1 and not small.queries and not store.records


async def test_our_engines_count_what_they_would_read() -> None:
    pool = LocalPool("small", FakeEngine("lab-small"))
    assert found(await count(services(small=pool), HI)) == (6, "counted")  # type: ignore[arg-type]


async def test_an_estimate_is_a_token_for_four_bytes() -> None:
    tokens, how = found(await count(services(), LONG))
    assert how == "estimated" and 125 <= tokens <= 150
    more, _ = found(await count(services(), {**LONG, "tools": [{"name": "a", "input_schema": {"x": "y" * 400}}]}))
    assert more - tokens > 100


@pytest.mark.parametrize("fault", [PoolUnavailable("away"), ContextLengthExceeded("too long")])
async def test_a_pool_that_cannot_count_now(fault: Exception) -> None:
    assert found(await count(services(small=Counting(fault=fault)), HI))[1] == "estimated"


async def test_what_the_pool_refuses_is_refused() -> None:
    response = await count(services(small=Counting(fault=UnsupportedParameter("no tools", param="tools"))), HI)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    unknown = await count(services(), {**HI, "model": "none"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")


async def test_a_request_is_counted_only_where_it_may_go() -> None:
    tree = config().model_dump()
    tree["pools"]["large"]["place"] = "public"
    checked = config(pools=tree["pools"])
    small, large = Counting(), Counting("large", "lab-large")

    def change(made: dict[str, Any]) -> None:
        placed = placed_pools(checked, {"small": small, "large": large})
        policy = PlacementPolicy(checked, PersonalData(checked.placement.personal_data, placed))
        made.update(pools=placed, catalogue=FakeCatalogue(placed), placement=policy)  # type: ignore[arg-type]

    parts = services(tree=checked, change=change)
    assert found(await count(parts, LONG)) == (7, "counted") and len(large.counted) == 1
    assert found(await count(parts, LONG, **{"x-jethro-privacy": "local"})) == (7, "counted")
    assert len(large.counted) == 1 and len(small.counted) == 1
    refused = await count(parts, {**LONG, "model": "lab-large"}, **{"x-jethro-privacy": "local"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
