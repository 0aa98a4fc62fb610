"""What is collected: queries from a file, from the decision log or from the lab, and how pools are called with them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from serve_app.data.collection.lab import Half, unseen_queries
from serve_app.data.records import messages_of, read_records, unique_ids
from serve_app.errors import DataError
from serve_app.pools.base import Pool
from serve_app.pools.upstream import Backoff
from serve_app.types import Message, Query, Sampling


@dataclass(frozen=True, slots=True)
class LabeledQuery:
    """A query with its id, the group it counts in, and the right answer where one is known."""

    query: Query
    id: str
    group: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """How pools are called: `sampling.n` answers of each pool to each query, at most `per_call` in one call.

    With `sampling.seed` each call has a seed of its own, drawn from that one, the query and the pool. Log-probabilities
    are requested of the pools that have them. `concurrency` counts calls. A Retry-After is honored up to ten minutes.
    `extra_samples` and `verdicts` are further answers, and self-verifications, of every pool but the last.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    concurrency: int = 16
    per_call: int = 8
    backoff: Backoff = field(default_factory=lambda: Backoff(8, base_s=0.5, cap_s=30.0, longest_retry_after_s=600.0))
    extra_samples: int = 0
    verdicts: int = 0

    def header(self, queries: Sequence[LabeledQuery], pools: Mapping[str, Pool]) -> dict[str, Any]:
        """What a journal's entries answer, as its first line keeps it."""
        digest = blake2b(digest_size=16)
        for item in queries:
            messages = [m.to_openai() for m in item.query.messages]
            digest.update(json.dumps([item.id, messages]).encode() + b"\n")
        sampling = self.sampling
        return {
            "queries": len(queries),
            "queries_digest": digest.hexdigest(),
            "pools": {name: pool.model for name, pool in pools.items()},
            "samples": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            **({"logprobs": sampling.top_logprobs} if sampling.logprobs else {}),
        }


@dataclass(frozen=True, slots=True)
class CollectionProgress:
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


ReportProgress = Callable[[CollectionProgress], None]


def queries_from_file(path: Path, limit: int | None = None) -> list[LabeledQuery]:
    """The rows of a file: `prompt`, `messages` or `turns`, and optionally `id`, `group` and `reference`.

    Without an id the position is one. Raises DataError naming file, row and fault.
    """
    if not (records := list(islice(read_records(path), limit))):
        raise DataError(f"{path}: there is no row")
    return [
        LabeledQuery(Query(messages_of(r)), name, r.text("group") or "", r.text("reference", "answer"))
        for r, name in zip(records, unique_ids(records), strict=True)
    ]


def queries_from_log(path: Path, limit: int | None = None) -> list[LabeledQuery]:
    """The newest different conversations of a decision log, each as one message of the user.

    Raises ConfigError for a file that is no log, DataError for one that kept no prompts.
    """
    from serve_app.store.reading import read_prompts  # SQLAlchemy, which the other sources do not need

    if not (prompts := read_prompts(path, limit)):
        raise DataError(f"{path}: no prompt was kept; serve with store.keep_prompts: true, or give --prompts")
    return [LabeledQuery(Query((Message("user", text),)), decision_id) for decision_id, text in prompts]


def queries_from_lab(n: int, seed: int, half: Half) -> list[LabeledQuery]:
    """`n` lab queries unseen by the models and of one half, each once: at most `n` different ones."""
    items = {item.prompt: item for item in unseen_queries(n, seed, half)}
    return [
        LabeledQuery(Query((Message("user", i.prompt),)), f"lab-{number}", f"{i.task}-{i.difficulty}", i.answer)
        for number, i in enumerate(items.values())
    ]
