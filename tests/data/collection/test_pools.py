""""""

import pytest

from serve_app.config import load
from serve_app.data.collection.pools import pools_at, pools_here
from serve_app.errors import ConfigError
from serve_app.types import Message, Query, Sampling
from serve_app.wire.frames import Call
from tests.cli.counting_server import CountingServer, counting

QUERY = Query((Message("user", "what is 1 + 1?"),), Sampling(temperature=0.0, max_tokens=8))
CALL = Call("c", "c", 0)


async def test_engines_of_a_config_run_in_this_process() -> None:
    pytest.importorskip("transformers", reason="needs the extra transformers")
    async with pools_here(load("lab", env={}), ["small"]) as pools:
        assert list(pools) == ["small"] and pools["small"].price.input_usd_per_million == 0.1
        answer = await pools["small"].complete(QUERY, CALL)
        assert answer.parsed["model"] == "jlab-small" and answer.usage.completion_tokens > 0


async def test_pools_behind_an_endpoint_are_asked_by_their_models() -> None:
    with counting(CountingServer()) as server:
        for url in (server.url, f"{server.url}/v1/"):
            async with pools_at(url, load("lab", env={}), key="k") as pools:
                assert list(pools) == ["small", "large"] and pools["large"].price.output_usd_per_million == 1.0
                answer = await pools["large"].complete(QUERY, CALL)
                assert answer.parsed["choices"][0]["message"]["content"] == "jlab-large:what is 1 + 1?:0"
    assert server.keys == {"Bearer k"} and {model for model, _, _ in server.asked} == {"jlab-large"}


async def test_remote_pools_need_no_engine_here() -> None:
    with counting(CountingServer()) as server:
        settings = {f"pools.{n}.engine": f"{{kind: openai, urls: [{server.url}/v1]}}" for n in ("small", "large")}
        async with pools_here(load("lab", env={}, settings=settings)) as pools:
            await pools["small"].complete(QUERY, CALL)
    assert [model for model, _, _ in server.asked] == ["jlab-small"]


async def test_an_unknown_pool_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'huge'.* small, large"):
        async with pools_at("http://127.0.0.1:1", load("lab", env={}), ["huge"]):
            pass
