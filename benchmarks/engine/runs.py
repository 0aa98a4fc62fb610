"""Tokens a second of an engine under so many requests at once, and of plain `generate` as the limit."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any

from benchmarks.stats import percentile
from serve_app.engines.base import Engine
from serve_app.types import Message, Query, Sampling

MAX_TOKENS = 64
CASES = ("long texts", "lab queries")
"""Long texts: MAX_TOKENS sampled tokens each, from a model that cannot end by itself; decoding is most of the work.
Lab queries: real ones answered greedily; answers are a few tokens, so reading the prompt is most of the work."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one run gave: output tokens and requests a second, and time to first token and between tokens in ms."""

    concurrency: int
    tokens_per_s: float
    requests_per_s: float
    ttft_p50_ms: float
    itl_p50_ms: float


def queries(case: str, prompts: list[str]) -> Callable[[int], Query]:
    """The i-th query of a case; seeds differ, so texts do."""

    def query(i: int) -> Query:
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0.0)
        if case == "long texts":
            sampling = Sampling(max_tokens=MAX_TOKENS, temperature=1.0, seed=i)
        return Query((Message("user", prompts[i % len(prompts)]),), sampling)

    return query


async def run(engine: Engine, query: Callable[[int], Query], concurrency: int, seconds: float) -> Rate:
    """Keep `concurrency` requests open; the first fifth of the time is warm-up and not counted."""
    numbers = count()
    start_s = perf_counter() + seconds / 5
    end_s = start_s + seconds
    tally = _Tally(start_s, end_s)

    async def one_after_another() -> None:
        while perf_counter() < end_s:
            await tally.follow(engine, query(next(numbers)))

    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    return Rate(
        concurrency,
        tally.tokens / seconds,
        tally.requests / seconds,
        percentile(tally.first_s, 50) * 1e3,
        percentile(tally.gaps_s, 50) * 1e3,
    )


class _Tally:
    """Counts what arrives between start and end."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self._start_s, self._end_s = start_s, end_s
        self.tokens, self.requests = 0, 0
        self.first_s: list[float] = []
        self.gaps_s: list[float] = []

    async def follow(self, engine: Engine, query: Query) -> None:
        """One request from begin to end. Tokens are counted by their ids, so a chunk may hold several."""
        last_s, first = perf_counter(), True
        async for chunk in engine.stream(query):
            now = perf_counter()
            if self._start_s <= now < self._end_s:
                self.tokens += len(chunk.token_ids)
                (self.first_s if first else self.gaps_s).append(now - last_s)
                self.requests += chunk.finish_reason is not None
            last_s, first = now, False


def generate(path: str, batch: int, threads: int, prompts: list[str], seconds: float) -> float:
    """Tokens a second of transformers' own `generate`: one batch after another, every text MAX_TOKENS long, sampled."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(path, padding_side="left")
    options = {"do_sample": True, "top_k": 0, "min_new_tokens": MAX_TOKENS, "max_new_tokens": MAX_TOKENS}
    texts = _batches(tokenizer, prompts, batch)
    tokens, end_s, start_s = 0, 0.0, 0.0
    with torch.inference_mode():
        model.generate(**next(texts), **options)
        start_s = perf_counter()
        while (end_s := perf_counter()) < start_s + seconds:
            given = next(texts)
            tokens += model.generate(**given, **options).numel() - given["input_ids"].numel()
    return tokens / (end_s - start_s)


def _batches(tokenizer: Any, prompts: list[str], batch: int) -> Iterator[dict[str, Any]]:
    for i in count(0, batch):
        chats = [[{"role": "user", "content": prompts[(i + k) % len(prompts)]}] for k in range(batch)]
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        yield {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
