"""In-process clients over the app with fakes below it."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.gateway.services import Services
from tests.api.fakes import services

Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """`client(services)`: a client that asks an app of its own."""
    made: list[httpx.AsyncClient] = []

    def make(parts: Services | None = None, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(build_app(parts or services()), raise_app_exceptions=True)
        made.append(httpx.AsyncClient(transport=transport, base_url="http://jethro", headers=headers))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()
