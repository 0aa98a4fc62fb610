"""Servers whose pool says what a test wants, over the real store."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from serve_app.placement.policy import PlacementPolicy
from serve_app.store.sqlite import SqliteStore
from tests.api.dialects.responses.doubles import Said, SayingPool, events_of
from tests.api.fakes import config, services
from tests.api.server import serving

KEYS = {"acme": "k1", "other": "k2"}
ASKED = {"model": "jethro", "input": "hi"}


class Double:
    """The pool that answers, the server's address, and the file of its store."""

    def __init__(self, pool: SayingPool, url: str, file: Path) -> None:
        self.pool, self.url, self.file = pool, url, file

    def says(self, text: str = "", **more) -> None:
        said = {name: more.pop(name) for name in list(more) if name in Said.__dataclass_fields__}
        self.pool.said = Said(text, **said)
        self.pool.error, self.pool.breaks_after = more.get("error"), more.get("breaks_after")
        self.pool.queries.clear()

    def post(self, key="k1", headers=(), **body) -> httpx.Response:
        sent = {"authorization": f"Bearer {key}", **dict(headers)}
        return httpx.post(f"{self.url}/v1/responses", json={**ASKED, **body}, headers=sent)

    def events(self, **body) -> list[dict]:
        answer = self.post(stream=True, **body)
        assert answer.status_code == 200, answer.text
        return events_of(answer.content)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Double]:
    file = tmp_path_factory.mktemp("store") / "x.sqlite3"
    pool = SayingPool()

    def make():
        tree = config(store={"path": str(file), "flush_s": 0.02})
        parts = {"store": SqliteStore(tree.store)}
        return services(small=pool, keys=KEYS, tree=tree, change=lambda p: p.update(parts))

    with serving(make) as url:
        yield Double(pool, url, file)


@pytest.fixture
def client(served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="k1", max_retries=0) as made:
        yield made


@pytest.fixture
def placed(tmp_path) -> Iterator[Double]:
    """One whose requests have classes, and a log of what it says of them."""
    pool = SayingPool()
    placement = {"default": "any", "may_loosen": True}

    def make():
        tree = config(store={"path": str(tmp_path / "store" / "x.sqlite3")}, placement=placement)
        parts = {"store": SqliteStore(tree.store), "placement": PlacementPolicy(tree)}
        return services(small=pool, keys=KEYS, tree=tree, change=lambda p: p.update(parts))

    with serving(make) as url:
        yield Double(pool, url, tmp_path / "store" / "x.sqlite3")
