"""The whole Gateway in this process over scripted pools: real registry, routers, store, and keys."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.config.tree import Config
from serve_app.gateway.services import Services, build_services
from tests.api.fakes import FakePool, config

ADMIN, CALLER = "the-operators-key", "a-callers-key"
EASY, HARD = "what is 2 + 3?", "sort 52 17 88 6 34 91 12 45 and then reverse the result"


@dataclass
class World:
    """One Gateway and a client of it, which sends the operator's key unless it says otherwise."""

    services: Services
    http: httpx.AsyncClient

    async def ask(self, text: str = EASY, **changes: Any) -> dict[str, Any]:
        body = {"model": "jethro", "messages": [{"role": "user", "content": text}], **changes}
        response = await self.http.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {CALLER}"}
        )
        assert response.status_code == 200, response.text
        return response.json()

    async def threshold(self) -> float:
        """That of the next decision."""
        return (await self.ask())["jethro"]["threshold"]

    async def set(self, threshold: float, name: str = "complexity") -> httpx.Response:
        return await self.http.post(f"/v1/admin/routers/{name}/threshold", json={"threshold": threshold})

    async def undo(self, name: str = "complexity") -> httpx.Response:
        return await self.http.post(f"/v1/admin/routers/{name}/undo")


def tree(folder: Path, **changes: dict[str, Any]) -> Config:
    """The lab's config with its state in a folder."""
    branches: dict[str, dict[str, Any]] = {
        "store": {"path": str(folder / "log.sqlite3"), "flush_s": 0.02},
        "routing": {"registry": str(folder / "routers"), "reload_s": 0.02},
        "log": {"access": False},
        "server": {"admin_key_env": "TEST_ADMIN_KEY"},
        "streams": {"enabled": False},
    }
    return config(**{name: {**branches.get(name, {}), **changes.get(name, {})} for name in {*branches, *changes}})


@asynccontextmanager
async def gateway(config: Config, key: str | None = ADMIN) -> AsyncIterator[World]:
    pools = {"small": FakePool("small", "jlab-small"), "large": FakePool("large", "jlab-large")}
    services = build_services(config, pools)
    await services.start()
    transport = httpx.ASGITransport(build_app(services))
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro", headers=headers) as http:
        yield World(services, http)
    await services.aclose()


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    monkeypatch.setenv("TEST_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("TEST_CALLER_KEY", CALLER)
    return tree


@pytest.fixture
async def world(tmp_path: Path, keyed: Callable[..., Config]) -> AsyncIterator[World]:
    async with gateway(keyed(tmp_path)) as made:
        yield made
