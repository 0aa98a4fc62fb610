"""A replica as it runs: the transformers engine behind its application behind uvicorn, asked over a socket."""

import asyncio
import socket

import aiohttp
import pytest
import uvicorn

from serve_app.engines.app import build_replica_app
from serve_app.engines.transformers import HFEngine
from tests.models import save_random_model, settings_for

SECRET = "cluster"


class Replica:
    """A started engine, its application, and a client session that may call it."""

    def __init__(self, engine, app, session):
        self.engine, self.app, self.session = engine, app, session

    def ask(self, **body):
        asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **body}
        return self.session.post("/v1/chat/completions", json=asked)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)

    @property
    def rows(self) -> int:
        return self.engine.health().figures["rows"]


@pytest.fixture
async def replica(tmp_path):
    engine = HFEngine("m", settings_for(save_random_model(tmp_path)))
    await engine.start()
    app = build_replica_app(engine, secret=SECRET)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False))
        serving = asyncio.create_task(server.serve([listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {SECRET}"}) as session:
            yield Replica(engine, app, session)
        server.should_exit = True
        await serving
    await engine.aclose()


async def test_many_streams_at_once(replica):
    async def text(i):
        async with replica.ask(max_tokens=5 + i, stream=True) as response:
            return await response.text()

    found = await asyncio.gather(*(text(i) for i in range(16)))
    for i, body in enumerate(found):
        assert body.endswith("data: [DONE]\n\n")
        assert body.count('"finish_reason":"length"') == 1, i


async def test_a_closed_connection_frees_the_row(replica):
    async with replica.ask(max_tokens=400, stream=True) as response:
        await response.content.readany()
        assert replica.rows == 1
        response.close()
        await replica.until(lambda: replica.rows == 0)
    assert replica.app.admission.open == 0


async def test_a_caller_who_gives_up_a_whole_answer_frees_the_row(replica):
    task = asyncio.create_task(replica.ask(max_tokens=400).__aenter__())
    await replica.until(lambda: replica.rows == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await replica.until(lambda: replica.rows == 0 and replica.app.admission.open == 0)


async def test_errors_have_their_status(replica):
    async with replica.ask(messages=[{"role": "user", "content": "a" * 600}], stream=True) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"


async def test_parameters_beyond_openais_reach_the_engine(replica):
    async def said(**body):
        async with replica.ask(max_tokens=8, **body) as response:
            return response.status, await response.json()

    _, plain = await said()
    _, forced = await said(logit_bias={"40": 100}, temperature=1)
    _, likeliest = await said(top_k=1, temperature=1, min_p=0.1, repetition_penalty=1.0, ignore_eos=True, min_tokens=8)
    text, only, greedy = (each["choices"][0]["message"]["content"] for each in (plain, forced, likeliest))
    assert len(set(only)) == 1 and only != text
    assert greedy == text
    status, refused = await said(logit_bias={"5000": 1})
    assert (status, refused["error"]["param"]) == (400, "logit_bias")
