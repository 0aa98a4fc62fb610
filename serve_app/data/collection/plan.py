"""What is asked of pools to collect a dataset, and how; what a run tells of itself.

The queries to collect answers to: from a file, from the decision log, or from the lab.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from serve_app.data.collection.lab import Half, unseen_queries
from serve_app.data.records import messages_of, read_records
from serve_app.errors import DataError
from serve_app.pools.base import Pool
from serve_app.pools.retry import Backoff
from serve_app.types import Message, Query, Sampling


@dataclass(frozen=True, slots=True)
class Asked:
    """A query to ask, its id, the group it counts in, and the right answer where one is known."""

    query: Query
    id: str
    group: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class How:
    """How to ask: `sampling.n` answers of each pool to each query, at most `per_call` in one call (engines bound it).

    With `sampling.seed` each call has a seed of its own, drawn from that one, the query and the pool. `concurrency`
    counts calls. A Retry-After is honoured up to ten minutes.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    concurrency: int = 16
    per_call: int = 8
    backoff: Backoff = field(default_factory=lambda: Backoff(8, base_s=0.5, cap_s=30.0, longest_retry_after_s=600.0))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, counted in (query, pool): `fresh` of the `done` were answered by this run, in `elapsed_s`."""

    done: int
    total: int
    failed: int
    fresh: int
    elapsed_s: float
    spent_usd: float
    """Of all runs together."""
    trouble: str = ""
    """The last failure that is being tried again."""

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the rate of this run; None before it has answered anything."""
        return self.elapsed_s / self.fresh * (self.total - self.done) if self.fresh else None


Tell = Callable[[Progress], None]


def asked_of(asked: Sequence[Asked], pools: Mapping[str, Pool], how: How) -> dict[str, Any]:
    """What a journal's entries answer, as its first line keeps it."""
    digest = blake2b(digest_size=16)
    for item in asked:
        messages = [m.to_openai() for m in item.query.messages]
        digest.update(json.dumps([item.id, messages]).encode() + b"\n")
    sampling = how.sampling
    return {
        "queries": len(asked),
        "queries_digest": digest.hexdigest(),
        "pools": {name: pool.model for name, pool in pools.items()},
        "samples": sampling.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        **({"logprobs": sampling.top_logprobs} if sampling.logprobs else {}),
    }


def asked_of_file(path: Path, limit: int | None = None) -> list[Asked]:
    """The rows of a file: `prompt`, `messages` or `turns`, and if it likes `id`, `group` and `reference`.

    Without an id the position is one. Raises DataError naming file, row and fault.
    """
    found: list[Asked] = []
    first: dict[str, str] = {}
    for number, record in enumerate(read_records(path)):
        if limit is not None and number >= limit:
            break
        name = record.text("id") or str(number)
        if name in first:
            raise record.fault(f"id {name!r} is that of {first[name]} too; ids must differ")
        first[name] = record.where
        query = Query(messages_of(record))
        found.append(Asked(query, name, record.text("group") or "", record.text("reference", "answer")))
    if not found:
        raise DataError(f"{path}: there is no row")
    return found


def asked_of_log(path: Path, limit: int | None = None) -> list[Asked]:
    """The newest different conversations of a decision log, each as one message of the user.

    Raises ConfigError for a file that is no log, DataError for one that kept no prompts.
    """
    from serve_app.store.reading import read_prompts  # SQLAlchemy, which the other sources do not need

    prompts = read_prompts(path, limit)
    if not prompts:
        raise DataError(f"{path}: no prompt was kept; serve with store.keep_prompts: true, or give --prompts")
    return [Asked(Query((Message("user", text),)), decision_id) for decision_id, text in prompts]


def asked_of_lab(n: int, seed: int, half: Half) -> list[Asked]:
    """`n` lab queries unseen by the models and of one half, without those drawn again: at most `n` different ones."""
    items = {item.prompt: item for item in unseen_queries(n, seed, half)}
    return [
        Asked(Query((Message("user", i.prompt),)), f"lab-{number}", f"{i.task}-{i.difficulty}", i.answer)
        for number, i in enumerate(items.values())
    ]
