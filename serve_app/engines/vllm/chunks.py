"""From vLLM's outputs to Chunks: text, log-probabilities, tool calls, finish reasons and usage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from serve_app.engines.vllm.rendering import Rendered
from serve_app.errors import RequestError, UpstreamError
from serve_app.types import Chunk, FinishReason, Query, TokenLogprob, Usage

_CLOSED = "closed"
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}


class ChunkWriter:
    """Writes one answer's chunks; holds the state of its tool parsers and counts its tokens."""

    def __init__(self, query: Query, rendered: Rendered, tokens_of: Callable[[str], list[int]]) -> None:
        self._rendered, self._tokens_of = rendered, tokens_of
        self._logprobs, self._top = query.sampling.logprobs, query.sampling.top_logprobs
        self._copies = query.sampling.n if rendered.params.n == 1 else 1
        self._named_tool = isinstance(query.tool_choice, Mapping)
        self._one_call = query.extra.get("parallel_tool_calls") is False
        self._stops = query.sampling.stop
        self._called: set[int] = set()
        self._ended: set[int] = set()
        self._completion_tokens = 0

    def chunks(self, output: RequestOutput) -> Iterator[Chunk]:
        """The chunks of one output; the last one of the last output carries usage.

        Raises UpstreamError if the engine gave the request up, RequestError if it did for the form of the answer.
        """
        choices = [self._closed(choice) for choice in output.outputs if choice.index not in self._ended]
        written = [chunk for choice in choices if (chunk := self._chunk(choice)) is not None]
        if self._copies > 1:
            written = [replace(chunk, index=i) for chunk in written for i in range(self._copies)]
        if self.done:
            usage = Usage(self._rendered.prompt_tokens, self._completion_tokens * self._copies)
            written[-1] = replace(written[-1], usage=usage)
        yield from written

    @property
    def done(self) -> bool:
        """Whether every choice has ended, so that nothing further of the model is needed."""
        return bool(len(self._ended) == self._rendered.params.n)

    def _closed(self, choice: CompletionOutput) -> CompletionOutput:
        """The piece of a choice, or what ends the answer in its place."""
        if self._rendered.closings:
            closing = self._rendered.closings[choice.index]
            text = closing.take(choice.text, len(choice.token_ids), choice.finish_reason)
            if text is not None:
                ids = self._tokens_of(text)
                choice = replace(
                    choice,
                    text=text,
                    token_ids=ids,
                    logprobs=[None] * len(ids) if choice.logprobs is not None else None,
                    finish_reason="stop",
                    stop_reason=_CLOSED,
                )
        if choice.finish_reason is not None:
            self._ended.add(choice.index)
        return choice

    def _chunk(self, choice: CompletionOutput) -> Chunk | None:
        self._completion_tokens += len(choice.token_ids)
        finish = self._finish(choice)
        token_ids, logprobs = _without_stop_token(choice)
        text = choice.text
        calls: tuple[dict[str, Any], ...] = ()
        if self._rendered.parsers:
            text, calls = self._parsed(choice)
            if finish == "stop" and choice.index in self._called and not self._named_tool:
                finish = "tool_calls"
            if not (text or calls or finish or self._logprobs):
                return None  # the parser holds the piece back
        if not (text or calls or token_ids or finish):
            return None
        return Chunk(
            index=choice.index,
            text=text,
            token_ids=tuple(token_ids),
            logprobs=self._token_logprobs(token_ids, logprobs) if self._logprobs else (),
            finish_reason=finish,
            tool_calls=calls,
            stop_reason=choice.stop_reason if choice.stop_reason in self._stops else None,
        )

    def _finish(self, choice: CompletionOutput) -> FinishReason | None:
        if choice.finish_reason is None:
            return None
        finish = _FINISH.get(choice.finish_reason)
        if finish is None and choice.finish_reason == "error" and (form := self._rendered.form) is not None:
            raise RequestError(
                f"{form}: the answer came to a place where the form demands what no token of this model writes, such "
                "as a letter that its vocabulary lacks: leave it out of the form, or use another model.",
                param=form,
                code="invalid_value",
            )
        if finish is None:
            raise UpstreamError(f"the model's engine gave the request up ({choice.finish_reason})")
        return finish

    def _parsed(self, choice: CompletionOutput) -> tuple[str, tuple[dict[str, Any], ...]]:
        """Text and tool call deltas of the choice's next piece, as vLLM's tool parser reads it."""
        delta = self._rendered.parsers[choice.index].parse_delta(
            delta_text=choice.text,
            delta_token_ids=list(choice.token_ids),
            request=self._rendered.request,
            prompt_token_ids=self._rendered.prompt["prompt_token_ids"],
            finished=choice.finish_reason is not None,
        )
        if delta is None:
            return "", ()
        calls = tuple(
            call.model_dump(exclude_none=True) for call in delta.tool_calls if not (self._one_call and call.index > 0)
        )
        if calls:
            self._called.add(choice.index)
        return delta.content or "", calls

    def _token_logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob] | None]
    ) -> tuple[TokenLogprob, ...]:
        return tuple(self._one(t, found) for t, found in zip(token_ids, logprobs, strict=True) if found)

    def _one(self, token_id: int, found: Mapping[int, Logprob]) -> TokenLogprob:
        sampled = found[token_id]
        best = sorted((p for p in found.values() if (p.rank or 0) <= self._top), key=lambda p: -p.logprob)[: self._top]
        return TokenLogprob(
            sampled.decoded_token or "", sampled.logprob, tuple((p.decoded_token or "", p.logprob) for p in best)
        )


def _without_stop_token(choice: CompletionOutput) -> tuple[Sequence[int], Sequence[Mapping[int, Logprob] | None]]:
    """Tokens and log-probabilities of the text: the end-of-sequence token, which is no text, is left out."""
    logprobs = choice.logprobs or []
    by_token = choice.finish_reason == "stop" and not isinstance(choice.stop_reason, str)
    if by_token and choice.token_ids:
        return choice.token_ids[:-1], logprobs[:-1]
    return choice.token_ids, logprobs
