"""The Engine over the worker: checks a query, submits it, and yields its chunks as they arrive.

Turns a Query into the model's token ids: chat template, tokenizer, and whether prompt and answer fit the context.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from serve_app.adapters.base_model import known_base
from serve_app.adapters.card import AdapterCard
from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.engines import TransformersSettings
from serve_app.engines.adapter_cache import AdapterCache, AdapterHost
from serve_app.engines.base import EngineHealth
from serve_app.engines.structured import constraint_of
from serve_app.engines.transformers.guided.compiler import Compiler, Form
from serve_app.engines.transformers.guided.grammars import CallPlan
from serve_app.engines.transformers.guided.vocabulary import Vocabulary
from serve_app.engines.transformers.loading import LoadedModel
from serve_app.engines.transformers.lora import LoraWeights, load_weights, weight_bytes
from serve_app.engines.transformers.metrics import EngineFigures
from serve_app.engines.transformers.sequence import Request
from serve_app.engines.transformers.text import Decode, decoder
from serve_app.engines.transformers.tools import ToolPrompt, reader_of
from serve_app.engines.transformers.worker import Worker
from serve_app.errors import (
    ConfigError,
    ContextLengthExceeded,
    InvalidAdapter,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UnsupportedParameter,
)
from serve_app.types import Capabilities, Chunk, Query

logger = logging.getLogger("jethro.engines")


class PromptEncoder:
    """Encodes queries for one tokenizer and one context length (tokens). Safe to call from any thread."""

    def __init__(self, tokenizer: Any, context_tokens: int, tools: ToolPrompt | None = None) -> None:
        self._tokenizer, self._context_tokens = tokenizer, context_tokens
        self._tools = tools or ToolPrompt(tokenizer.chat_template, described=True)

    def encode(self, query: Query) -> list[int]:
        """The prompt's token ids, at least one.

        Raises:
            RequestError: the chat template refuses the messages, or an empty prompt has no token to start from.
            ContextLengthExceeded: no room for the requested answer.
        """
        ids = self.ids(query)
        self._check_room(len(ids), query.sampling.max_tokens)
        return ids

    def ids(self, query: Query) -> list[int]:
        """The same for a prompt of any length."""
        return self._chat(query) if query.endpoint == "chat" else self._raw(query)

    def room(self, prompt_tokens: int) -> int:
        """Tokens that an answer to a prompt of this length can have."""
        return self._context_tokens - prompt_tokens

    def _raw(self, query: Query) -> list[int]:
        if query.prompt_ids:
            return self._known(query.prompt_ids)
        ids: list[int] = self._tokenizer(query.prompt).input_ids
        start = self._tokenizer.bos_token_id
        if not ids and start is None:
            raise RequestError("prompt is empty and the model has no token that starts a text", param="prompt")
        return ids or [start]

    def _known(self, ids: Sequence[int]) -> list[int]:
        size = len(self._tokenizer)
        if not all(0 <= token < size for token in ids):
            raise RequestError(f"prompt holds a token id that this model lacks: it has 0 to {size - 1}", param="prompt")
        return list(ids)

    def _chat(self, query: Query) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise RequestError("this model has no chat template: ask it through /v1/completions", param="messages")
        ids: list[int] = self._tokenizer(self._text(query), add_special_tokens=False).input_ids
        return ids

    def _text(self, query: Query) -> str:
        messages, tools = self._tools.prepare(query)
        options = dict(query.extra.get("chat_template_kwargs") or {})
        return self._render(messages, options | {"tools": tools} if tools else options)

    def _render(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """The text of the messages. The role `developer`, which few templates know, is then tried as `system`."""
        attempts = [messages]
        if any(m["role"] == "developer" for m in messages):
            attempts.append([{**m, "role": "system"} if m["role"] == "developer" else m for m in messages])
        for attempt in attempts:
            try:
                text: str = self._tokenizer.apply_chat_template(
                    attempt, add_generation_prompt=True, tokenize=False, **options
                )
            except (TemplateError, TypeError) as e:
                error = e
            else:
                return text
        raise RequestError(f"the model's chat template refuses the messages: {error}", param="messages") from error

    def _check_room(self, prompt_tokens: int, max_tokens: int | None) -> None:
        if prompt_tokens + (max_tokens or 1) <= self._context_tokens:
            return
        requested = f" and {max_tokens} tokens are requested" if max_tokens else ""
        raise ContextLengthExceeded(
            f"the model's context is {self._context_tokens} tokens, but the prompt has {prompt_tokens}{requested}; "
            f"shorten the prompt{' or lower max_tokens' if max_tokens else ''}",
            param="messages",
        )


LONG_PROMPT_CHARS = 16_384
"""Prompts above are tokenised in a thread; below, the event loop is held for less than the change would cost."""

_EXTRAS = frozenset(("chat_template_kwargs", "structured_outputs", "parallel_tool_calls"))
"""Parameters beyond OpenAI's that this engine knows, and one of OpenAI's that only it reads."""


class HFEngine:
    """Engine over any causal language model that transformers runs with a plain attention cache."""

    def __init__(self, model: str, settings: TransformersSettings, adapters: AdaptersConfig | None = None) -> None:
        """`adapters`: the registry, used if the settings serve adapters; its default is that of the config."""
        self.model = model
        self.capabilities = Capabilities(adapters=settings.adapters is not None)
        self._settings, self._registry = settings, AdapterRegistry(adapters or AdaptersConfig())
        self._adapters: AdapterCache[LoraWeights] | None = None
        self._following: asyncio.Task[None] | None = None
        self._figures = EngineFigures(model)
        self._worker = Worker(settings, self._figures)
        self._loaded: LoadedModel | None = None
        self._compiler: Compiler | None = None
        self._open: set[Request] = set()
        self._closed = False

    async def start(self) -> None:
        """Loads the model. Raises ConfigError if it cannot be loaded or run."""
        loaded = await self._worker.start()
        self._tools = ToolPrompt(loaded.tokenizer.chat_template, described=self._settings.tool_prompt != "none")
        self._prompts = PromptEncoder(loaded.tokenizer, loaded.context_tokens, self._tools)
        self._compiler = await asyncio.to_thread(_compiler, self.model, loaded)
        self._decode: Decode = decoder(loaded.tokenizer)
        guided = self._compiler is not None
        self.capabilities = replace(
            self.capabilities, guided=guided, tools=guided, max_context_tokens=loaded.context_tokens
        )
        if self._settings.adapters is not None:
            self._adapters = await asyncio.to_thread(self._adapter_cache, loaded)
            await self._adapters.look()
            self._following = asyncio.get_running_loop().create_task(self._adapters.follow())
        self._loaded = loaded

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See Engine.stream. Queue bound: `max_waiting` choices beyond the `max_batch` that may run."""
        async with AsyncExitStack() as leases:
            request = await self._admit(query)
            if query.adapter is not None:
                assert self._adapters is not None
                request.adapter = await leases.enter_async_context(self._adapters.lease(query.adapter))
                if self._closed:
                    raise PoolUnavailable(f"{self.model} is not running", retry_after_s=1)
            self._open.add(request)
            self._worker.submit(request)
            try:
                while True:
                    chunk = await request.mailbox.get()
                    yield chunk
                    if chunk.usage is not None:
                        return
            finally:
                request.cancelled = True
                self._open.discard(request)

    async def count_tokens(self, query: Query) -> int:
        """See Engine.count_tokens."""
        if self._loaded is None or self._closed:
            raise PoolUnavailable(f"{self.model} is not running", retry_after_s=1)
        count = self._prompts.ids
        return len(await asyncio.to_thread(count, query) if len(query.text) > LONG_PROMPT_CHARS else count(query))

    def health(self) -> EngineHealth:
        """Requests with a choice in the batch, and those still outside; `figures` counts rows."""
        if self._loaded is None or self._closed:
            return EngineHealth(ok=False, detail="closed" if self._closed else "not started")
        running = sum(r.placed > 0 for r in self._open)
        return EngineHealth(
            ok=not self._worker.broken,
            running=running,
            waiting=len(self._open) - running,
            detail="every step fails; the log says why" if self._worker.broken else "",
            figures={"rows": self._worker.running, "waiting_rows": self._worker.waiting},
            adapters=self._adapters.names() if self._adapters is not None else (),
        )

    def metrics(self) -> str:
        """The engine's metrics, in Prometheus' text format."""
        if self._loaded is None:
            return ""
        return self._figures.text(running=self._worker.running, waiting=self._worker.waiting)

    async def aclose(self) -> None:
        """Stops the thread; open streams end with PoolUnavailable."""
        if not self._closed:
            self._closed = True
            if self._following is not None:
                self._following.cancel()
                await asyncio.gather(self._following, return_exceptions=True)
            if self._adapters is not None:
                await self._adapters.aclose()
            if self._compiler is not None:
                self._compiler.close()
            await self._worker.stop()

    def _adapter_cache(self, loaded: LoadedModel) -> AdapterCache[LoraWeights]:
        """Raises ConfigError if the weights of the model itself cannot be found, to which adapters are bound."""
        settings, dtype = self._settings.adapters, loaded.model.dtype
        assert settings is not None
        try:
            base = known_base(self._settings.path)
        except InvalidAdapter as e:
            raise ConfigError(f"engine.adapters: {e}") from e

        async def load(card: AdapterCard) -> LoraWeights:
            module = self._worker.lora.missing(card)
            if module is not None:
                raise InvalidAdapter(
                    f"adapter {card.name!r} changes {module}, which is no linear module of {self.model} that this "
                    "engine can batch; train it without, or use engine.kind vllm",
                    param="model",
                )
            return await asyncio.to_thread(load_weights, card, loaded.device, dtype)

        return AdapterCache(
            self._registry,
            settings,
            base,
            AdapterHost(load, bytes_of=lambda card: weight_bytes(card, dtype)),
            figures=self._figures.adapters,
            max_waiting=self._settings.max_waiting,
        )

    async def _admit(self, query: Query) -> Request:
        if self._loaded is None or self._closed:
            raise PoolUnavailable(f"{self.model} is not running", retry_after_s=1)
        adapters = self._settings.adapters is not None
        _check_supported(query, self.model, guided=self._compiler is not None, adapters=adapters)
        self._check_load(query.sampling.n)
        encode = self._prompts.encode
        ids = await asyncio.to_thread(encode, query) if len(query.text) > LONG_PROMPT_CHARS else encode(query)
        room = self._prompts.room(len(ids))
        if query.sampling.max_tokens is None and self._settings.max_tokens is not None:
            room = min(room, self._settings.max_tokens)
        form, calls = await self._form(query)
        decode = self._decode if form is None else form.vocabulary.decode
        sampling = query.sampling.with_defaults(self._settings.temperature, self._settings.top_p)
        request = Request.of(sampling, ids, room=room, decode=decode, eos_ids=self._loaded.eos_ids)
        if form is not None:
            for sequence in request.sequences:
                sequence.guide, sequence.reader = form.guide(), reader_of(calls)
        return request

    async def _form(self, query: Query) -> tuple[Form | None, CallPlan | None]:
        """What the answer must follow, compiled, and the calls that it may hold."""
        if self._compiler is None:
            return None, None
        constraint, calls = constraint_of(query), self._tools.calls(query)
        if constraint is None and calls is None:
            return None, None
        return await self._compiler.form(constraint, calls), calls

    def _check_load(self, choices: int) -> None:
        taken = sum(len(r.sequences) for r in self._open)
        if taken and taken + choices > self._settings.max_batch + self._settings.max_waiting:
            raise Overloaded(f"{self.model} is busy: {taken} answers are open; try again later", retry_after_s=1)


def _compiler(model: str, loaded: LoadedModel) -> Compiler | None:
    """None, with a line in the log, for a tokenizer that grammars cannot be matched with."""
    try:
        return Compiler(Vocabulary(loaded.tokenizer, loaded.eos_ids), loaded.context_tokens)
    except ConfigError as e:
        logger.warning("model %s answers without response_format and tools: %s", model, e)
        return None


def _check_supported(query: Query, model: str, *, guided: bool, adapters: bool) -> None:
    """Refuses what would otherwise be ignored."""
    requested: dict[str, object] = {
        "response_format": query.response_format is not None and query.response_format.get("type") != "text",
        "tools": query.tools,
        "structured_outputs": query.extra.get("structured_outputs"),
    }
    if guided:
        requested.clear()
    requested["adapter"] = query.adapter is not None and not adapters
    requested |= {key: True for key in query.extra if key not in _EXTRAS}
    for name, value in requested.items():
        if value:
            raise UnsupportedParameter(f"{name} is not supported by model {model}; leave it out", param=name)
    if query.sampling.n < 1:
        raise RequestError("n must be at least 1", param="n")
    if query.sampling.max_tokens is not None and query.sampling.max_tokens < 1:
        raise RequestError("max_tokens must be at least 1", param="max_tokens")
