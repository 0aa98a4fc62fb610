"""A request in the engine and its choices: what each has said, and when it ends. Pure Python, no tensors."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve_app.engines.transformers.guided.guide import Guide
from serve_app.engines.transformers.text import Decode, Detokenizer, StopScanner
from serve_app.engines.transformers.tools import CallReader
from serve_app.errors import JethroError
from serve_app.types import Chunk, FinishReason, Sampling, TokenLogprob, Usage

if TYPE_CHECKING:
    from serve_app.engines.transformers.lora import LoraWeights


@dataclass(frozen=True, slots=True)
class Likely:
    """Natural log-probability of the sampled token, and the most likely ids with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Mailbox:
    """Chunks on their way to one consumer; both ends live on the event loop."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[Chunk | JethroError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Chunk | JethroError) -> None:
        """Adds a chunk, or the error that ends the stream."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Chunk:
        """The next chunk; raises the error if that is next."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        if isinstance(item, JethroError):
            raise item
        return item


@dataclass(eq=False)
class Request:
    """One query. `cancelled` is set by the event loop and read by the worker at every step."""

    sampling: Sampling
    prompt_ids: list[int]
    max_tokens: int
    mailbox: Mailbox = field(default_factory=Mailbox)
    sequences: list["Sequence"] = field(default_factory=list)
    cancelled: bool = False
    placed: int = 0
    """Choices that have had a place in the batch."""
    unfinished: int = 0
    completion_tokens: int = 0
    adapter: "LoraWeights | None" = None
    """What its rows add to the model."""

    @classmethod
    def of(
        cls, sampling: Sampling, prompt_ids: list[int], *, room: int, decode: Decode, eos_ids: frozenset[int]
    ) -> "Request":
        """A request with one sequence a choice; the answer has at most `room` tokens."""
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        request = cls(sampling, prompt_ids, limit, unfinished=sampling.n)
        request.sequences = [Sequence(request, index, decode, eos_ids) for index in range(sampling.n)]
        return request


class Sequence:
    """One choice of a request, from its prompt to its finish reason."""

    __slots__ = (
        *("counts", "guide", "index", "length", "reader", "request", "rng", "said"),
        *("_decode", "_detokenizer", "_eos_ids", "_ids", "_logprobs", "_stop"),
    )

    def __init__(self, request: Request, index: int, decode: Decode, eos_ids: frozenset[int]) -> None:
        sampling = request.sampling
        self.request, self.index = request, index
        self.guide: Guide | None = None
        """What the choice's text must follow."""
        self.reader: CallReader | None = None
        """Takes tool calls out of the text."""
        self.length = len(request.prompt_ids)
        """Tokens whose keys and values are in the cache, or will be after the prefill."""
        self.said = 0
        self.counts: dict[int, int] | None = None
        """How often each token was said; kept only where a penalty needs it."""
        if sampling.presence_penalty or sampling.frequency_penalty:
            self.counts = {}
        # The choice's own generator: a seed gives the same draws whatever else is in the batch.
        self.rng = random.Random(None if sampling.seed is None else f"{sampling.seed}/{index}")
        self._eos_ids, self._decode = eos_ids, decode
        self._detokenizer = Detokenizer(decode, request.prompt_ids)
        self._stop = StopScanner(sampling.stop) if sampling.stop else None
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    @property
    def end(self) -> int:
        """Length in tokens, prompt and answer, that this sequence may grow to."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def left(self) -> int:
        """Tokens that the answer may still have."""
        return self.request.max_tokens - self.said

    @property
    def sampling(self) -> Sampling:
        """The request's sampling parameters."""
        return self.request.sampling

    def accept(self, token_id: int, likely: Likely | None) -> Chunk | None:
        """Takes the sampled token; returns the chunk to send now, None while text is held back."""
        self.said += 1
        self.request.completion_tokens += 1
        self._ids.append(token_id)
        written = token_id if self.guide is None else self.guide.said
        if written in self._eos_ids:
            return self._finish("", "stop")
        if self.counts is not None:
            self.counts[token_id] = self.counts.get(token_id, 0) + 1
        text = self._detokenizer.add(written)
        if likely is not None:
            self._logprobs.append(self._logprob(written, text, likely))
        if self._stop is not None:
            text, stopped = self._stop.feed(text)
            if stopped:
                return self._chunk(text, "stop")
        if self.guide is not None and self.guide.done:
            return self._finish(text, "stop")
        if self.left <= 0:
            return self._finish(text, "stop" if self.guide is not None and self.guide.valid else "length")
        return self._chunk(text, None) if text else None

    def _finish(self, text: str, reason: FinishReason) -> Chunk | None:
        """The last chunk with all text that was kept back; a stop string in it still counts."""
        rest = self._detokenizer.flush()
        if self._stop is None:
            return self._chunk(text + rest, reason)
        out, stopped = self._stop.feed(rest)
        if stopped:
            return self._chunk(text + out, "stop")
        return self._chunk(text + out + self._stop.flush(), reason)

    def _chunk(self, text: str, reason: FinishReason | None) -> Chunk | None:
        """None while the reader holds all of the text back."""
        calls: tuple[dict[str, Any], ...] = ()
        if self.reader is not None:
            text, calls = self.reader.feed(text, last=reason is not None)
            if reason is None and not text and not calls:
                return None
            if reason == "stop" and self.reader.finishes_with_calls:
                reason = "tool_calls"
        logprobs, ids = tuple(self._logprobs), tuple(self._ids)
        self._logprobs.clear()
        self._ids.clear()
        usage = None
        if reason is not None:
            self.request.unfinished -= 1
            if self.request.unfinished == 0:
                usage = Usage(len(self.request.prompt_ids), self.request.completion_tokens)
        stopped = self._stop.found if self._stop is not None else None
        return Chunk(self.index, text, ids, logprobs, reason, calls, usage, stopped)

    def _logprob(self, token_id: int, text: str, likely: Likely) -> TokenLogprob:
        """A token reads as the text that it completed; alone if it completed none."""
        top = tuple((self._decode((other,)), value) for other, value in likely.top)
        return TokenLogprob(text or self._decode((token_id,)), likely.logprob, top)
