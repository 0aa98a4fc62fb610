"""A caller that hangs up on a real server frees the engine's slot, and harms nobody else."""

import asyncio
import json
import time

import httpx
import pytest

from serve_app.engines.local_pool import LocalPool
from tests.api.fakes import FakePool, config, services
from tests.api.server import serving
from tests.fakes import FakeEngine

ASK = {"model": "lab-small", "messages": [{"role": "user", "content": "hello"}]}


def head(length: int) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json")
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


async def until(holds) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not happen within 5 s"
        await asyncio.sleep(0.005)


async def ask_and_hang_up(url: str, body: dict, engine: FakeEngine) -> bytes:
    """Sends a request on a bare socket, waits until the engine works on it, and closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    raw = json.dumps(body).encode()
    writer.write(head(len(raw)) + raw)
    await until(lambda: engine.running)
    seen = await reader.readuntil(b"data: ") if body.get("stream") else b""
    writer.close()
    await writer.wait_closed()
    return seen


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_frees_the_slot(stream):
    engine = FakeEngine("lab-small", script=lambda query, index: ["x"] * 10_000, delay_s=0.01)
    with serving(lambda: services(small=LocalPool("small", engine))) as url:  # type: ignore[arg-type]
        seen = await ask_and_hang_up(url, {**ASK, "stream": stream}, engine)
        assert (b"200 OK" in seen) is stream
        await until(lambda: not engine.running)
        assert engine.cancelled == 1
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/live")).status_code == 200


async def test_a_caller_that_does_not_read_is_given_up_at_the_deadline():
    """Frames of a megabyte fill every buffer between; the engine's slot must not hang on them."""
    pool = FakePool(words=("x" * 2**20,) * 64)
    tree = config(limits={"request_timeout_s": 0.3})
    with serving(lambda: services(small=pool, tree=tree)) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        raw = json.dumps({**ASK, "stream": True}).encode()
        writer.write(head(len(raw)) + raw)
        await until(lambda: pool.running)
        await until(lambda: not pool.running)
        async with httpx.AsyncClient(base_url=url) as http:
            metrics = ""
            while "jethro_requests_in_flight 0.0" not in metrics:
                metrics = (await http.get("/metrics")).text
                await asyncio.sleep(0.02)
        writer.transport.abort()
        await writer.wait_closed()
    assert 'status="failed"' in metrics


async def test_a_chunked_body_over_the_limit_is_refused_while_it_is_sent():
    async def endless():
        while True:
            yield b"x" * 65536

    with serving(lambda: services(small=FakePool())) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            headers = {"content-type": "application/json"}
            try:
                response = await http.post("/v1/chat/completions", content=endless(), headers=headers)
                assert response.status_code == 413
            except (httpx.WriteError, httpx.ReadError):  # the server closed while we were still writing
                pass
            assert 'code="413"' in (await http.get("/metrics")).text


async def test_hanging_up_in_the_middle_of_the_body_is_no_error(caplog):
    with serving(services) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(99) + b"{")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        async with httpx.AsyncClient(base_url=url) as http:
            metrics = ""
            for _ in range(100):
                metrics = (await http.get("/metrics")).text
                if 'status="cancelled"' in metrics:
                    break
                await asyncio.sleep(0.01)
    assert 'status="cancelled"' in metrics
    assert caplog.text == ""
