"""The openai engine with an upstream of its own: a replica application over the fake engine, behind uvicorn."""

import asyncio

import uvicorn

from serve_app.config.engines import OpenAIEngine as Settings
from serve_app.engines.app import build_replica_app
from serve_app.engines.openai import OpenAIEngine
from tests.fakes import FakeEngine

KEY = "upstream-key"
CONTEXT = 4096


class ServedOpenAIEngine(OpenAIEngine):
    """Starts its upstream with itself, and ends it likewise."""

    def __init__(self) -> None:
        settings = Settings(urls=("http://127.0.0.1:1/v1",), api_key_env="KEY", max_context_tokens=CONTEXT)
        super().__init__("fake", settings, env={"KEY": KEY})
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        app = build_replica_app(FakeEngine(), secret=KEY)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="warning", access_log=False)
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.001)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self._settings = self._settings.model_copy(update={"urls": (f"http://127.0.0.1:{port}/v1",)})
        await super().start()

    async def aclose(self) -> None:
        await super().aclose()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
