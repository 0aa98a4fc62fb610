"""From a Query to the arguments of AsyncLLM.generate: prompt tokens by vLLM's renderer, and sampling parameters.

vLLM's OpenAI request models parse the query, so guided decoding, chat template arguments and tools mean the same here
as in vLLM. A key that vLLM knows but this engine does not support is refused by name. vLLM's exceptions become ours.
An answer's form comes before `min_tokens` and `ignore_eos`: vLLM would write on behind its end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMValidationError
from vllm.parser import Parser
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from serve_app.engines.further import FurtherSampling
from serve_app.engines.structured import Constraint, ToolSpec, constraint_of, tools_of
from serve_app.engines.transformers.guided.compiler import Compiler
from serve_app.engines.transformers.guided.grammars import READING_OPTIONS, CallForm, CallPlan
from serve_app.engines.transformers.guided.vocabulary import ByteVocabulary
from serve_app.engines.vllm.closing import Closing
from serve_app.errors import (
    ContextLengthExceeded,
    JethroError,
    Overloaded,
    RequestError,
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.types import Query
from serve_app.wire.requests import query_to_openai

# fmt: off
_ANY_ENDPOINT = frozenset((
    "add_special_tokens", "allowed_token_ids", "cache_salt", "ignore_eos", "include_stop_str_in_output", "logit_bias",
    "min_p", "min_tokens", "priority", "repetition_detection", "repetition_penalty", "skip_special_tokens",
    "spaces_between_special_tokens", "stop_token_ids", "structured_outputs", "top_k", "truncate_prompt_tokens",
    "truncation_side",
))
_CHAT_ONLY = frozenset((
    "add_generation_prompt", "bad_words", "chat_template_kwargs", "continue_final_message", "documents",
    "parallel_tool_calls", "reasoning_effort",
))
# fmt: on
PASSED_THROUGH = {"completions": _ANY_ENDPOINT, "chat": _ANY_ENDPOINT | _CHAT_ONLY}
"""Keys beyond OpenAI's that vLLM honours on this path, by endpoint; all others are refused."""

CALLS = CallForm(between="", or_tight=True)
"""vLLM's parser `hermes` demands calls of this form."""
_PROMPT = {"chat": "messages", "completions": "prompt"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A query in vLLM's terms. `parsers` has one tool parser per choice, or none where text passes as it is."""

    prompt: Any
    prompt_tokens: int
    params: SamplingParams
    request: ChatCompletionRequest | None = None
    parsers: tuple[Parser, ...] = ()
    form: str | None = None
    """The parameter that demanded a form of the answer."""
    closings: tuple[Closing, ...] = ()
    """One per choice whose answer must follow a form from its first token."""


class QueryRenderer:
    """Renders queries for one started engine. Tokenizing runs on vLLM's own threads, off the event loop."""

    def __init__(self, engine: AsyncLLM, *, model: str, tool_parser: str | None) -> None:
        self._model, self._tool_parser = model, tool_parser
        self._compiler = Compiler(ByteVocabulary(), 16 * engine.model_config.max_model_len, READING_OPTIONS)
        self._model_config = engine.model_config
        self._by_priority = engine.vllm_config.scheduler_config.policy == "priority"
        self._tokenizer = engine.get_tokenizer()
        # What the model's authors recommend beyond OpenAI's parameters (top_k, repetition penalty).
        self._defaults = self._model_config.get_diff_sampling_param()
        self._online = OnlineRenderer(
            engine.model_config,
            engine.renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            enable_auto_tools=tool_parser is not None,
            exclude_tools_when_tool_choice_none=True,
            tool_parser=tool_parser,
        )

    async def render(self, query: Query) -> Rendered:
        """The query in vLLM's terms.

        Raises ContextLengthExceeded when the prompt leaves no room for an answer, UnsupportedParameter for tools
        without a parser and for unknown keys, RequestError for whatever else vLLM refuses.
        """
        self._refuse(query)
        constraint, tools = constraint_of(query), tools_of(query)
        form = constraint.param if constraint is not None else "tools" if tools else None
        query = _with_tools(_narrowed(query, constraint), tools)
        try:
            rendered = await (self._chat(query) if query.endpoint == "chat" else self._completion(query))
        except Exception as e:
            raise error_of(e, prompt=_PROMPT[query.endpoint], form=form) from e
        return replace(rendered, form=form, closings=await self._closings(query, constraint, tools, rendered))

    async def _closings(
        self, query: Query, constraint: Constraint | None, tools: tuple[ToolSpec, ...], rendered: Rendered
    ) -> tuple[Closing, ...]:
        """How the answer's choices still end near their limit; none where that is not known."""
        calls = self._calls(query, tools)
        if tools and calls is None:
            return ()
        if constraint is None and calls is None:
            return ()
        try:
            form = await self._compiler.form(constraint, calls)
        except JethroError:  # vLLM's grammars may know what this one does not
            return ()
        limit = rendered.params.max_tokens or 0
        return tuple(Closing(form, limit, self._count) for _ in range(rendered.params.n))

    def _calls(self, query: Query, tools: tuple[ToolSpec, ...]) -> CallPlan | None:
        """The calls that must come, in the form that vLLM's parser demands; None where text may come as well."""
        named = isinstance(query.tool_choice, Mapping)
        if not tools or self._tool_parser != "hermes" or not (named or query.tool_choice == "required"):
            return None
        return CallPlan(tools, CALLS, required=True, single=named, named=named)

    def _count(self, text: str) -> int:
        return len(self.tokens_of(text))

    def tokens_of(self, text: str) -> list[int]:
        """The ids of a text that the model did not write."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def close(self) -> None:
        """End the threads that compile forms."""
        self._compiler.close()

    def _refuse(self, query: Query) -> None:
        for key, value in query.extra.items():
            ignored = key == "priority" and bool(value) and not self._by_priority
            if ignored or key not in PASSED_THROUGH[query.endpoint]:
                raise UnsupportedParameter(f"{key} is not supported by model {self._model}", param=key)
        if query.tools and query.tool_choice != "none" and self._online.parser is None:
            raise UnsupportedParameter(f"tools are not supported by model {self._model}", param="tools")

    def _body(self, query: Query) -> dict[str, Any]:
        """OpenAI's body with every sampling parameter said, so that none falls back to the model's own default."""
        sampling = query.sampling
        body = query_to_openai(query, model=self._model, stream=False)
        for key in ("user", "adapter", "max_tokens", "max_completion_tokens"):
            body.pop(key, None)
        for key in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            body[key] = getattr(sampling, key)
        # Greedy choices are all the same, and vLLM requires n=1 for them; the chunks are multiplied later.
        body["n"] = 1 if sampling.temperature == 0 else sampling.n
        return body

    async def _chat(self, query: Query) -> Rendered:
        # The answer's length is set in _sampling; here it must only be small, or vLLM checks it against the prompt.
        request = ChatCompletionRequest.model_validate({**self._body(query), "max_completion_tokens": 1})
        rendered = await self._online.render_chat(request)
        if isinstance(rendered, ErrorResponse):
            raise RequestError(rendered.error.message, param=rendered.error.param)
        [prompt] = rendered[1]
        parsers: tuple[Parser, ...] = ()
        if query.tools and query.tool_choice != "none":
            parsers = tuple(self._parser(request) for _ in range(request.n or 1))
        length = len(prompt["prompt_token_ids"])
        return Rendered(prompt, length, self._sampling(query, request, length), request, parsers)

    async def _completion(self, query: Query) -> Rendered:
        request = CompletionRequest.model_validate({**self._body(query), "max_tokens": 1})
        rendered = await self._online.render_completion(request)
        if isinstance(rendered, ErrorResponse):
            raise RequestError(rendered.error.message, param=rendered.error.param)
        [prompt] = rendered
        length = len(prompt["prompt_token_ids"])
        return Rendered(prompt, length, self._sampling(query, request, length))

    def _parser(self, request: ChatCompletionRequest) -> Parser:
        assert self._online.parser is not None
        template_arguments = self._online.effective_chat_template_kwargs(request)
        return self._online.parser(
            self._tokenizer, request.tools, chat_template_kwargs=template_arguments, model_config=self._model_config
        )

    def _sampling(
        self, query: Query, request: ChatCompletionRequest | CompletionRequest, prompt_tokens: int
    ) -> SamplingParams:
        room = self._room(query, prompt_tokens)
        limit = query.sampling.max_tokens or room
        FurtherSampling.of(query.extra, max_tokens=limit, vocabulary=self._model_config.get_vocab_size())
        params = request.to_sampling_params(limit, self._defaults)
        if params.structured_outputs is not None:
            params.min_tokens, params.ignore_eos = 0, False
        params.output_kind = RequestOutputKind.DELTA
        return params

    def _room(self, query: Query, prompt_tokens: int) -> int:
        """Tokens that the context leaves for the answer. Raises if they are fewer than requested."""
        requested, field = query.sampling.max_tokens, _PROMPT[query.endpoint]
        context: int = self._model_config.max_model_len
        if prompt_tokens == 0:
            raise RequestError("an empty prompt has no token to start from", param=field)
        if prompt_tokens + (requested or 1) > context:
            raise ContextLengthExceeded(
                f"this model's context is {context} tokens, but the prompt has {prompt_tokens} and {requested or 1} "
                "are requested: shorten the prompt or lower max_tokens",
                param=field,
            )
        return context - prompt_tokens


def _narrowed(query: Query, constraint: Constraint | None) -> Query:
    """The query with the checked schema, so that both engines leave out the same properties."""
    if constraint is None or constraint.kind != "json":
        return query
    if constraint.param == "structured_outputs":
        return replace(query, extra={**query.extra, "structured_outputs": {"json": constraint.value}})
    inner = (query.response_format or {}).get("json_schema")
    if not inner:
        return query
    schema = {**inner, "schema": constraint.value}
    return replace(query, response_format={"type": "json_schema", "json_schema": schema})


def _with_tools(query: Query, specs: tuple[ToolSpec, ...]) -> Query:
    """The query with the checked schemas of its tools. vLLM guides the arguments of strict tools only, others may have
    any JSON.
    """
    checked = {spec.name: spec.parameters for spec in specs}

    def tool_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
        function = tool.get("function") or {}
        if function.get("name") not in checked:
            return tool
        return {**tool, "function": {**function, "parameters": checked[function["name"]], "strict": True}}

    return replace(query, tools=tuple(map(tool_of, query.tools))) if checked else query


_RETRY_AFTER_S = 1.0
_LENGTH_PARAMETERS = ("input_text", "input_tokens")
_PARAMETERS = {"max_completion_tokens": "max_tokens"}
_INNER_MESSAGE_CHARS = 500


def error_of(error: Exception, *, prompt: str = "messages", form: str | None = None) -> JethroError:
    """The error for an exception of rendering or of the engine.

    `prompt` names the prompt's field, `form` the parameter that demands a form of the answer: what vLLM refuses without
    a name is its schema, pattern or grammar.
    """
    if isinstance(error, JethroError):
        return error
    if isinstance(error, VLLMValidationError):
        return _validation_error(error, prompt, form)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else None
        return RequestError(f"{key or 'the request'}: {first['msg']}", param=_PARAMETERS.get(key or "", key))
    if isinstance(error, VLLMClientError | ValueError | TypeError):
        return RequestError(str(error)[:_INNER_MESSAGE_CHARS] or type(error).__name__, param=form)
    if isinstance(error, GracefulHTTPError):
        return Overloaded(error.message, retry_after_s=_RETRY_AFTER_S)
    return UpstreamError(f"the model's engine failed ({type(error).__name__})")


def _validation_error(error: VLLMValidationError, prompt: str, form: str | None) -> RequestError:
    message = str(error.args[0])[:_INNER_MESSAGE_CHARS] if error.args else "invalid request"
    if error.parameter in _LENGTH_PARAMETERS:
        return ContextLengthExceeded(message, param=prompt)
    if error.parameter in (None, "structured_outputs"):
        return RequestError(message, param=form or error.parameter)
    return RequestError(message, param=_PARAMETERS.get(error.parameter or "", error.parameter))
