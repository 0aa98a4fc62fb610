"""Under Ray Serve's own layer, which echoes whatever id a request has."""

import httpx
import pytest
from ray.serve._private.http_util import _apply_middlewares

from serve_app.api.app import build_app
from serve_app.deployments.request_ids import middlewares, without_request_id
from tests.api.fakes import DictStore, services

CHAT = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}


async def seen(cleaned: bool, *sent: bytes) -> tuple[list[str], str]:
    """The ids in the response, and the one in the store."""
    store = DictStore()
    parts = services(change=lambda p: p.update(store=store))
    app = _apply_middlewares(without_request_id(build_app(parts)), middlewares() if cleaned else [])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jethro") as client:
        headers = [(b"x-request-id", one) for one in sent]
        response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    (record,) = store.records.values()
    return response.headers.get_list("x-request-id"), record.request_id


@pytest.mark.parametrize("sent", [(), (b"mine",), (b"x" * 128,), (b"x" * 129,), (b"a b",), (b"caf\xe9",), (b"a", b"b")])
async def test_one_clean_id(sent: tuple[bytes, ...]) -> None:
    (shown,), stored = await seen(True, *sent)
    assert shown == stored and 0 < len(shown) <= 128 and shown.isascii()
    if sent[:1] in ((b"mine",), (b"x" * 128,)):
        assert shown == sent[0].decode()


async def test_without_it_serve_echoes_what_the_gateway_refuses() -> None:
    (shown,), stored = await seen(False, b"x" * 129)
    assert shown == "x" * 129 and stored != shown
