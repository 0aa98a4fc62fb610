import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.errors import ContextLengthExceeded, Overloaded, PoolUnavailable, UpstreamError
from serve_app.strategy import Spent
from serve_app.wire.frames import Frame
from tests.api.fakes import USAGE, DictStore, FakePool, config, services

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n\n")
    return Frame(response.content).events


class Connection:
    """A raw ASGI caller that reads as it goes and can hang up."""

    def __init__(self, app: Any, body: bytes, path: str = CHAT) -> None:
        headers = [(b"content-type", b"application/json")]
        self._scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "root_path": ""}
        self._body: list[bytes] = [body]
        self._gone = asyncio.Event()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app(self._scope, self._receive, self.sent.put))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        self._gone.set()


async def test_one_shot(client):
    parts = services()
    response = await client(parts).post(CHAT, json=ASK)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "abc"}
    assert (body["model"], body["usage"]) == ("lab-small", USAGE)
    decision_id = response.headers["x-jethro-decision-id"]
    assert body["id"] == f"chatcmpl-{decision_id}"
    assert body["jethro"].items() >= {
        "decision_id": decision_id, "strategy": "route", "pool": "small", "model": "lab-small", "score": 0.02,
        "threshold": 0.5, "router": "length", "cost_usd": (5 * 1 + 3 * 2) / 1e6,
    }.items()  # fmt: skip
    assert response.headers["x-jethro-pool"] == "small"
    assert response.headers["x-jethro-model"] == "lab-small"
    assert response.headers["x-jethro-strategy"] == "route"
    assert response.headers["x-jethro-score"] == "0.02"
    assert response.headers["x-jethro-threshold"] == "0.5"
    assert float(response.headers["x-jethro-cost-usd"]) == body["jethro"]["cost_usd"]
    assert response.headers["openai-processing-ms"].isdigit()
    assert [part.split(";")[0] for part in response.headers["server-timing"].split(", ")] == [
        "parse", "decide", "pool", "total",
    ]  # fmt: skip


async def test_a_long_query_goes_to_the_large_model(client):
    ask = {**ASK, "messages": [{"role": "user", "content": "x" * 60}]}
    assert (await client().post(CHAT, json=ask)).headers["x-jethro-pool"] == "large"


async def test_a_pool_by_its_own_name_has_no_score(client):
    response = await client().post(CHAT, json={**ASK, "model": "lab-large"})
    assert response.headers["x-jethro-pool"] == "large"
    assert response.headers["x-jethro-strategy"] == "direct"
    assert "x-jethro-score" not in response.headers
    assert response.json()["jethro"]["score"] is None


async def test_completions(client):
    body = (await client().post(TEXT, json={"model": "lab-small", "prompt": "hi", "n": 2})).json()
    assert [c["text"] for c in body["choices"]] == ["abc", "abc"]
    assert body["object"] == "text_completion"


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream(client, n):
    response = await client().post(CHAT, json={**ASK, "stream": True, "n": n})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-jethro-pool"] == "small"
    assert "x-jethro-cost-usd" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")
    seen = events(response)
    assert [c["finish_reason"] for e in seen for c in e["choices"]].count("stop") == n
    assert [bool(e.get("jethro")) for e in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1]["jethro"]["cost_usd"] == (5 * 1 + 3 * 2) / 1e6
    assert all("usage" not in e for e in seen)
    assert {(e["id"], e["model"]) for e in seen} == {(seen[0]["id"], "lab-small")}


async def test_a_stream_with_usage(client):
    ask = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    last = events(await client().post(CHAT, json=ask))[-1]
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert last["jethro"]["pool"] == "small"


async def test_a_stream_of_completions(client):
    seen = events(await client().post(TEXT, json={"model": "lab-small", "prompt": "hi", "stream": True}))
    assert "".join(c["text"] for e in seen for c in e["choices"]) == "abc"
    assert seen[-1]["jethro"]["pool"] == "small"


async def test_the_first_piece_leaves_before_the_second_is_there():
    pool = FakePool(gate=asyncio.Semaphore(0))
    connection = Connection(build_app(services(small=pool)), json.dumps({**ASK, "stream": True}).encode())
    await asyncio.sleep(0.01)
    assert connection.sent.empty()  # no status before the first byte
    pool.gate.release()
    start = await connection.sent.get()
    assert start["status"] == 200
    assert b'"a"' in (await connection.sent.get())["body"]
    assert connection.sent.empty()
    for _ in range(3):
        pool.gate.release()
    await connection.task


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (ContextLengthExceeded("too long", param="messages"), 400, None),
        (Overloaded("full", retry_after_s=2.5), 429, "3"),
        (PoolUnavailable("nobody"), 503, "1"),
        (UpstreamError("broke"), 502, None),
    ],
)
async def test_an_error_before_the_first_byte_has_its_status(client, stream, error, status, retry_after):
    parts = services(small=FakePool(error=error))
    response = await client(parts).post(CHAT, json={**ASK, "model": "lab-small", "stream": stream})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json() == error.body()
    assert response.headers.get("retry-after") == retry_after
    assert "x-request-id" in response.headers


async def test_an_error_after_the_first_byte_is_the_last_event(client):
    store = DictStore()
    parts = services(small=FakePool(error=UpstreamError("the replica died"), fail_after=2))
    response = await client(replace(parts, store=store)).post(CHAT, json={**ASK, "stream": True})
    assert response.status_code == 200
    seen = events(response)
    assert seen[-1]["error"]["message"] == "the replica died"
    assert [e["choices"][0]["delta"]["content"] for e in seen[:-1]] == ["a", "b"]
    assert "[DONE]" not in response.text
    (record,) = store.records.values()
    assert (record.status, record.error_code) == ("failed", "upstream_error")


async def test_a_stream_that_ends_without_a_finish_is_an_error_event(client):
    response = await client(services(small=FakePool(finish=False))).post(CHAT, json={**ASK, "stream": True})
    assert "finish reason" in events(response)[-1]["error"]["message"]


async def test_an_error_of_ours_is_a_500_without_details(client, caplog):
    parts = services(small=FakePool(error=KeyError("secret")))
    response = await client(parts).post(CHAT, json=ASK)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text


async def test_a_fallback_is_told(client):
    parts = services(small=FakePool(error=PoolUnavailable("nobody")))
    body = (await client(parts).post(CHAT, json=ASK)).json()
    assert body["jethro"]["pool"] == body["jethro"]["model"].removeprefix("lab-") == "large"
    assert [s["pool"] for s in body["jethro"]["steps"]] == ["small", "large"]
    assert 'jethro_fallbacks_total{pool="small"} 1.0' in parts.recorder.text().decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_hangs_up_frees_the_model(stream):
    pool, store = FakePool(gate=asyncio.Semaphore(0)), DictStore()
    parts = replace(services(small=pool), store=store)
    connection = Connection(build_app(parts), json.dumps({**ASK, "stream": stream}).encode())
    while not pool.running:
        await asyncio.sleep(0)
    connection.hang_up()
    await asyncio.wait_for(connection.task, 5)
    assert (pool.running, pool.cut) == (0, 1)
    assert 'status="cancelled"' in parts.recorder.text().decode()


async def test_a_caller_that_hangs_up_in_the_middle_is_recorded_as_cancelled():
    pool, store = FakePool(gate=asyncio.Semaphore(0)), DictStore()
    app = build_app(replace(services(small=pool), store=store))
    connection = Connection(app, json.dumps({**ASK, "stream": True}).encode())
    pool.gate.release()
    await connection.sent.get()
    connection.hang_up()
    await asyncio.wait_for(connection.task, 5)
    assert pool.running == 0
    assert [r.status for r in store.records.values()] == ["cancelled"]


async def test_a_cancelled_handler_frees_the_model_and_stays_cancelled():
    pool = FakePool(gate=asyncio.Semaphore(0))
    connection = Connection(build_app(services(small=pool)), json.dumps(ASK).encode())
    while not pool.running:
        await asyncio.sleep(0)
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert (pool.running, pool.cut) == (0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_before_the_first_byte_is_a_504(client, stream):
    pool = FakePool(gate=asyncio.Semaphore(0))
    parts = services(small=pool, tree=config(limits={"request_timeout_s": 0.02}))
    response = await client(parts).post(CHAT, json={**ASK, "stream": stream})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert pool.running == 0


async def test_the_deadline_inside_a_stream_is_an_error_event():
    pool = FakePool(gate=asyncio.Semaphore(0))
    app = build_app(services(small=pool, tree=config(limits={"request_timeout_s": 0.1})))
    connection = Connection(app, json.dumps({**ASK, "stream": True}).encode())
    pool.gate.release()
    await connection.sent.get()
    await asyncio.wait_for(connection.task, 5)
    sent = [connection.sent.get_nowait()["body"] for _ in range(connection.sent.qsize())]
    assert b"deadline_exceeded" in sent[-1]
    assert pool.running == 0


async def test_the_call_carries_ids_and_a_deadline(client):
    pool = FakePool()
    response = await client(services(small=pool)).post(CHAT, json=ASK, headers={"x-request-id": "mine"})
    (call,) = pool.calls
    assert (call.id, call.request_id) == (response.headers["x-jethro-decision-id"], "mine")
    assert call.deadline_s is not None


async def test_what_is_recorded(client):
    store = DictStore()
    await client(replace(services(), store=store)).post(CHAT, json=ASK)
    (record,) = store.records.values()
    assert (record.status, record.endpoint, record.usage.total_tokens) == ("completed", "chat", 8)
    assert record.cost_usd == 11 / 1e6
    assert record.latency_ms >= record.ttft_ms > 0
    assert record.prompt is None


async def test_the_longest_pause_of_a_stream_is_recorded(client):
    store, gate = DictStore(), asyncio.Semaphore(2)
    parts = replace(services(small=FakePool(words=("a", "b", "c"), gate=gate)), store=store)
    posted = asyncio.create_task(client(parts).post(CHAT, json={**ASK, "stream": True}))
    await asyncio.sleep(0.15)
    for _ in range(9):
        gate.release()
    assert (await posted).status_code == 200
    (record,) = store.records.values()
    assert record.pieces == 3, "those with words; what is held back to the end is no piece"
    assert 50 <= record.longest_gap_ms <= record.pieces_ms <= record.latency_ms
    text = parts.recorder.text().decode()
    assert 'jethro_itl_longest_seconds_bucket{le="0.01",pool="small"} 0.0' in text
    assert 'jethro_itl_longest_seconds_count{pool="small"} 1.0' in text


async def test_prompts_are_kept_only_if_the_operator_says_so(client):
    store = DictStore()
    await client(replace(services(tree=config(store={"keep_prompts": True})), store=store)).post(CHAT, json=ASK)
    assert [r.prompt for r in store.records.values()] == ["hi"]


async def test_a_strategy_that_breaks_its_contract_is_a_bad_gateway(client):
    class Silent:
        name = "silent"

        async def run(self, query, context):
            yield Spent(())

    parts = services()
    parts.catalogue._named["silent"] = Silent()
    assert (await client(parts).post(CHAT, json={**ASK, "model": "silent"})).status_code == 502


async def test_one_bad_request_harms_no_other(client):
    http = client()
    asks = [ASK, {**ASK, "n": 10**6}, {"model": 5}, {**ASK, "stream": True}, {**ASK, "model": "none"}] * 8
    responses = await asyncio.gather(*(http.post(CHAT, json=ask) for ask in asks))
    assert [r.status_code for r in responses] == [200, 400, 400, 200, 404] * 8
