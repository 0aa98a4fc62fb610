"""A Learner that can be away, a Gateway's side of the streams over it, and how a test asks a stream."""

import asyncio
from dataclasses import replace
from typing import Any

from serve_app.config.strategies import StreamsConfig
from serve_app.strategy import Context
from serve_app.streams.registry import LocalLearner, RegistryOptions
from serve_app.streams.service import Streams
from serve_app.types import Message, Query
from serve_app.wire.frames import Call
from tests.streams.fakes import FakeCore

MODEL = "jethro-stream-mood"


class Switched:
    """A Learner that can be away, and started again over the same folder, as after a kill."""

    def __init__(self, folder):
        self.folder = folder
        self.here = True
        self.inner = None

    async def start(self):
        self.inner = await asyncio.to_thread(LocalLearner, RegistryOptions(self.folder), FakeCore())
        self.here = True

    async def kill(self):
        self.here = False
        await self.inner.aclose()

    def __getattr__(self, name):
        async def call(*args):
            if not self.here:
                raise ConnectionError("the actor died")
            return await getattr(self.inner, name)(*args)

        return call


def gateway(learner, pools, source="g1", **options):
    coin = options.pop("coin", lambda: 0.5)
    config = StreamsConfig(poll_s=0.02, **{"folder": str(learner.folder), **options})
    return Streams(learner, pools, config, source, FakeCore(), coin)


def query(text="a sunny day", **changes):
    return replace(Query((Message("user", text),)), **changes)


async def asked(streams, told=None, model=MODEL, stream=False):
    found: dict[str, Any] = {}
    strategy = streams.strategy(model)
    async for event in strategy.run(told or query(), Context(Call("id1", "r1", 1), stream)):
        found[type(event).__name__] = event
    return found


def text(found):
    return found["Answer"].parsed["choices"][0]["message"]["content"]


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def learned(streams, count, name="mood"):
    async def reached():
        return (await streams.get(name, None))["figures"].get("labelled") == count

    await until(reached)


async def taught(streams, times=3):
    for n in range(times):
        await asked(streams)
        await learned(streams, n + 1)
