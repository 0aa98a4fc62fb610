"""Kept responses: by tenant, bounded, chained, shared by Gateways, erased with everything else of their user."""

import sqlite3
from pathlib import Path

import pytest

from serve_app.backup import Places, back_up, restore
from serve_app.config.tree import StoreConfig
from serve_app.erasure import Origin, Selection
from serve_app.errors import NotFound, PoolUnavailable, RequestError
from serve_app.store.base import KeptResponse
from serve_app.store.sqlite import SqliteStore
from tests.store.test_sqlite import record

DAY_S = 86_400.0
NOW_S = 100 * DAY_S
WORD = b"a-word-of-the-caller"


@pytest.fixture
def config(tmp_path) -> StoreConfig:
    return StoreConfig(path=str(tmp_path / "var" / "x.sqlite3"), flush_s=0.02)


class Opened:
    """Opens stores in whose time it is NOW_S, and closes them."""

    def __init__(self, config: StoreConfig) -> None:
        self._config, self.now_s = config, NOW_S
        self._made: list[SqliteStore] = []

    async def __call__(self, **changes) -> SqliteStore:
        store = SqliteStore(self._config.model_copy(update=changes), clock=lambda: self.now_s)
        await store.start()
        self._made.append(store)
        return store

    async def close(self) -> None:
        for store in self._made:
            await store.aclose()


@pytest.fixture
async def opened(config):
    made = Opened(config)
    yield made
    await made.close()


def response(id_="resp_1", tenant="acme", created_s=NOW_S - 1, previous=None, body=b"{}", users=(), privacy="any"):
    origin = Origin(id_.removeprefix("resp_"), tenant, users, created_s)
    return KeptResponse(id_, origin, privacy, previous, body, b"[]")


def bytes_of(config: StoreConfig) -> bytes:
    return b"".join(path.read_bytes() for path in Path(config.path).parent.iterdir())


async def found(store, *ids, tenant="acme"):
    kept = []
    for id_ in ids:
        try:
            kept.append((await store.responses.find(id_, tenant)).id)
        except NotFound:
            continue
    return kept


async def test_another_gateway_reads_what_one_kept_at_once(opened):
    first, second = await opened(), await opened()
    one = response(users=("u", "s"), privacy="private", previous="resp_0", body=b'{"a": 1}')
    await first.responses.keep(one)
    assert await second.responses.find("resp_1", "acme") == one


async def test_a_tenant_reaches_its_own_alone(opened):
    store = await opened()
    await store.responses.keep(response())
    for call in (store.responses.find, store.responses.delete):
        with pytest.raises(NotFound):
            await call("resp_1", "other")
    with pytest.raises(NotFound):
        await store.responses.chain("resp_1", "other", 10**6)
    assert await found(store, "resp_1", tenant=None) == ["resp_1"]  # without keys there are no tenants


async def test_a_chain_is_read_from_its_beginning(opened):
    store = await opened()
    for i in range(4):
        await store.responses.keep(response(f"resp_{i}", previous=f"resp_{i - 1}" if i else None))
    assert [r.id for r in await store.responses.chain("resp_3", "acme", 10**6)] == [f"resp_{i}" for i in range(4)]
    with pytest.raises(RequestError, match="longer than a request"):
        await store.responses.chain("resp_3", "acme", 15)
    await store.responses.delete("resp_1", "acme")
    with pytest.raises(NotFound):
        await store.responses.chain("resp_3", "acme", 10**6)


async def test_the_oldest_of_the_tenant_make_room(opened):
    store = await opened(responses_most=2)
    for i in range(3):
        await store.responses.keep(response(f"resp_{i}", created_s=NOW_S - 10 + i))
    await store.responses.keep(response("resp_x", tenant="other", created_s=NOW_S - 20))
    assert await found(store, "resp_0", "resp_1", "resp_2") == ["resp_1", "resp_2"]
    assert await found(store, "resp_x", tenant="other") == ["resp_x"]


async def test_their_bytes_are_bounded(opened):
    store = await opened(responses_bytes=250)
    for i in range(3):
        await store.responses.keep(response(f"resp_{i}", created_s=NOW_S - 10 + i, body=b"x" * 100))
    assert await found(store, "resp_0", "resp_1", "resp_2") == ["resp_1", "resp_2"]


async def test_without_keys_the_bounds_hold_as_well(opened):
    store = await opened(responses_most=1)
    for i in range(2):
        await store.responses.keep(response(f"resp_{i}", tenant=None, created_s=NOW_S - 10 + i))
    assert await found(store, "resp_0", "resp_1", tenant=None) == ["resp_1"]


async def test_an_old_one_is_gone_at_once_and_deleted_with_the_next_write(opened, config):
    store = await opened()
    await store.responses.keep(response(body=WORD))
    opened.now_s += 3 * DAY_S
    assert await found(store, "resp_1") == []
    await store.responses.keep(response("resp_2", created_s=opened.now_s))
    with sqlite3.connect(config.path) as file:
        assert file.execute("SELECT response_id FROM responses").fetchall() == [("resp_2",)]


async def test_a_deleted_one_leaves_no_bytes(opened, config):
    store = await opened()
    await store.responses.keep(response(body=WORD))
    assert WORD in bytes_of(config)
    await store.responses.delete("resp_1", "acme")
    assert WORD not in bytes_of(config)


@pytest.mark.parametrize(
    "selection", [Selection(user="alice"), Selection("acme"), Selection("acme", "alice", "1"), Selection()]
)
async def test_an_erasure_includes_them(opened, config, selection):
    store = await opened()
    await store.responses.keep(response(body=WORD, users=("bob", "alice")))
    await store.responses.keep(response("resp_2", tenant="other", users=("carol",)))
    erased = await store.erase(selection)
    assert erased.responses == (2 if selection == Selection() else 1)
    assert await found(store, "resp_1") == []
    assert WORD not in bytes_of(config)
    await store.responses.keep(response(users=("alice",)))  # of a request from before the erasure
    assert await found(store, "resp_1") == []
    await store.responses.keep(response("resp_4", users=("alice",), created_s=NOW_S + 1))
    assert await found(store, "resp_4") == ["resp_4"]


async def test_a_restored_file_has_none_of_who_was_erased_since(opened, config, tmp_path):
    store = await opened()
    for id_, user in (("resp_1", "alice"), ("resp_2", "bob")):
        await store.responses.keep(response(id_, users=(user,)))
    places = Places(Path(config.path), tmp_path / "streams", tmp_path / "routers")
    back_up(places, tmp_path / "backup")
    await store.erase(Selection(user="alice"))
    await opened.close()
    restore(places, tmp_path / "backup", NOW_S)
    assert await found(await opened(), "resp_1", "resp_2") == ["resp_2"]


async def test_a_file_without_the_table_gets_it(opened, config):
    store = await opened()
    store.record(record("d1", created_s=NOW_S))
    await opened.close()
    with sqlite3.connect(config.path) as file:
        file.execute("DROP TABLE responses")
    store = await opened()
    await store.responses.keep(response())
    assert await found(store, "resp_1") == ["resp_1"]


async def test_a_closed_store_refuses(opened):
    store = await opened()
    await store.aclose()
    with pytest.raises(PoolUnavailable):
        await store.responses.keep(response())


async def test_responses_are_kept_no_longer_than_decisions(opened):
    store = await opened(keep_days=1)
    await store.responses.keep(response(created_s=NOW_S - 2 * DAY_S))
    await store.responses.keep(response("resp_2", created_s=NOW_S))
    assert await found(store, "resp_1", "resp_2") == ["resp_2"]
