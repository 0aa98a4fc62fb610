"""Asks every pool every query and grades the answers: the Dataset that routers learn from."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import time
from typing import Any

import numpy as np

from serve_app.errors import JethroError
from serve_app.learning.dataset import Dataset, PoolAnswers
from serve_app.pools.base import Call, Pool
from serve_app.types import Query, Sampling

Grade = Callable[[str], float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query to ask, the grader of its answers (text to quality in [0, 1]), and the group it counts in."""

    query: Query
    grade: Grade
    group: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """One pool's answers to one query."""

    texts: tuple[str, ...]
    quality: tuple[float, ...]
    prompt_tokens: float
    completion_tokens: float
    """Mean of a sample: OpenAI's usage counts all choices together."""


async def collect(
    asked: Sequence[Asked],
    pools: Mapping[str, Pool],
    *,
    sampling: Sampling = Sampling(temperature=0.0),  # noqa: B008 - frozen
    concurrency: int = 32,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """Ask all pools, `concurrency` queries at once; `sampling.n` answers each (one greedy answer by default).

    A query that a pool fails to answer is left out and counted in `about["failed"]`. `progress(done, total)` is
    called after every query. Raises the first error if no query was answered by all pools.
    """
    gate = asyncio.Semaphore(concurrency)
    done = 0
    errors: list[JethroError] = []

    async def one(number: int, item: Asked) -> dict[str, _Row] | None:
        nonlocal done
        async with gate:
            query = replace(item.query, sampling=sampling)
            try:
                found = await asyncio.gather(*(_ask(pool, query, item.grade, number) for pool in pools.values()))
            except JethroError as error:
                errors.append(error)
                found = None
        done += 1
        if progress is not None:
            progress(done, len(asked))
        return None if found is None else dict(zip(pools, found, strict=True))

    rows = await asyncio.gather(*(one(number, item) for number, item in enumerate(asked)))
    kept = [(item, row) for item, row in zip(asked, rows, strict=True) if row is not None]
    if not kept and errors:
        raise errors[0]
    return Dataset(
        queries=tuple(item.query for item, _ in kept),
        pools={name: _column(pool, [row[name] for _, row in kept]) for name, pool in pools.items()},
        groups=tuple(item.group for item, _ in kept),
        about={**(about or {}), "failed": len(errors)},
    )


async def _ask(pool: Pool, query: Query, grade: Grade, number: int) -> _Row:
    name = f"collect-{number}"
    answer = await pool.complete(query, Call(name, name, int(time())))
    choices = sorted(answer.parsed["choices"], key=lambda choice: choice["index"])
    texts = tuple(_text(choice) for choice in choices)
    usage = answer.usage
    quality = tuple(float(grade(text)) for text in texts)
    return _Row(texts, quality, float(usage.prompt_tokens), usage.completion_tokens / len(texts))


def _text(choice: Mapping[str, Any]) -> str:
    content = choice["message"].get("content") if "message" in choice else choice.get("text")
    return str(content or "")


def _column(pool: Pool, rows: Sequence[_Row]) -> PoolAnswers:
    samples = len(rows[0].texts) if rows else 1
    prompt = np.repeat(np.array([[r.prompt_tokens] for r in rows]).reshape(-1, 1), samples, axis=1)
    completion = np.repeat(np.array([[r.completion_tokens] for r in rows]).reshape(-1, 1), samples, axis=1)
    price = pool.price
    cost = (prompt * price.input_usd_per_million + completion * price.output_usd_per_million) / 1e6
    quality = np.array([r.quality for r in rows], dtype=np.float64).reshape(-1, samples)
    return PoolAnswers(pool.model, tuple(r.texts for r in rows), quality, cost, prompt, completion)
