"""Records answers of pools with log-probabilities, graded: the data that cascades are fitted on.

Every pool answers each query once; for agreement and self-verification also further samples, and the pool's verdicts on
its own answer. All calls go through `learning.collect` with a journal of their own, so that after a kill nothing is
asked or paid twice. The rows are those that `cascade.recorded` reads.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from serve_app.data.answers import TEMPERATURE, AnswerEvidence, parse_verdicts, verification_query
from serve_app.data.collection.collect import collect
from serve_app.data.collection.journal import AnswerJournal, Entry
from serve_app.data.collection.plan import Asked, How, Tell
from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError, DataError
from serve_app.files import replacing
from serve_app.pools.base import Pool
from serve_app.types import Query, Sampling

Grade = Callable[[Dataset], Awaitable[Dataset]]
OpenJournal = Callable[[str, Sequence[Asked], Mapping[str, Pool], How], AbstractContextManager[AnswerJournal]]
"""Opens the journal of that name for what is asked of pools."""
_SAMPLE_TEMPERATURE: Final = 0.7
TOP: Final = 5


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """How pools are asked: `samples` more answers and `verdicts` of every pool but the last, which has no judge.

    `how.sampling` is that of the answer itself; its `n` is 1.
    """

    how: How
    samples: int = 0
    verdicts: int = 0
    split: str = ""
    top_logprobs: int = TOP

    def __post_init__(self) -> None:
        if self.how.sampling.n != 1:
            raise ConfigError(f"{self.how.sampling.n} answers a query: a cascade is fitted on one")


@dataclass(frozen=True, slots=True)
class Means:
    """Where journals are kept, how answers are graded, who is told of progress."""

    open_journal: OpenJournal
    grade: Grade
    tell: Tell = lambda _: None


async def record(
    asked: Sequence[Asked], pools: Mapping[str, Pool], plan: RecordPlan, means: Means
) -> list[dict[str, Any]]:
    """A row a query that every pool answered, in the order asked; `pools` weakest first.

    Raises what `collect` raises, and DataError if nothing was answered by all pools.
    """
    answered: dict[str, tuple[Dataset, dict[str, Entry]]] = {}
    further: dict[str, _Further] = {}
    for place, (name, pool) in enumerate(pools.items()):
        how = _with_logprobs(plan, pool)
        answered[name] = await _asked(name, asked, {name: pool}, how, means)
        if place < len(pools) - 1:
            further[name] = await _further(asked, {name: pool}, plan, answered[name][1], means)
    ids = [set(dataset.ids) for dataset, _ in answered.values()]
    rows = [item for item in asked if all(item.id in there for there in ids)]
    if not rows:
        raise DataError("no query was answered by all pools; see the journals for their reasons")
    dataset = await means.grade(_joined(rows, {name: found[0] for name, found in answered.items()}))
    return [
        {
            "i": item.id,
            "split": plan.split,
            "group": item.group,
            "messages": [m.to_openai() for m in item.query.messages],
            "reference": item.reference,
            "m": {
                name: {
                    "ok": float(dataset.pools[name].quality[at, 0]),
                    **_answer(pool, answered[name][1][item.id]),
                    **(further[name].of(item.id) if name in further else {}),
                }
                for name, pool in pools.items()
            },
        }
        for at, item in enumerate(rows)
    ]


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """JSON lines, whole or not at all. Raises ConfigError where they cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e}); make room or give another --out") from e


@dataclass(frozen=True, slots=True)
class _Further:
    """Entries of further calls by query."""

    samples: Mapping[str, Sequence[Entry]]
    verdicts: Mapping[str, Sequence[Entry]]

    def of(self, query: str) -> dict[str, Any]:
        samples, verdicts = self.samples.get(query, ()), self.verdicts.get(query, ())
        found: dict[str, Any] = {}
        if samples:
            found["samples"] = [text for entry in samples for text in entry.texts]
        if verdicts:
            found["verdicts"] = list(parse_verdicts([text for entry in verdicts for text in entry.texts]))
        if found:
            found["extra_cost"] = sum(entry.cost_usd for entry in (*samples, *verdicts))
        return found


def _with_logprobs(plan: RecordPlan, pool: Pool) -> How:
    """Log-probabilities where the pool can give them; without them its own signals stay unknown."""
    sampling = plan.how.sampling
    if pool.capabilities.logprobs:
        sampling = replace(sampling, logprobs=True, top_logprobs=plan.top_logprobs)
    return replace(plan.how, sampling=sampling)


async def _asked(
    journal: str, asked: Sequence[Asked], pools: Mapping[str, Pool], how: How, means: Means
) -> tuple[Dataset, dict[str, Entry]]:
    """What one pool answered, and its entries by query."""
    with means.open_journal(journal, asked, pools, how) as kept:
        dataset = await collect(asked, pools, how, journal=kept, tell=means.tell)
        return dataset, {entry.query: entry for entry in kept.entries if entry.failed is None}


async def _further(
    asked: Sequence[Asked], pools: Mapping[str, Pool], plan: RecordPlan, entries: Mapping[str, Entry], means: Means
) -> _Further:
    name = next(iter(pools))
    there = [item for item in asked if item.id in entries]
    sampling = plan.how.sampling
    found: dict[str, dict[str, list[Entry]]] = {"samples": {}, "verdicts": {}}
    wanted: list[tuple[str, Sequence[Asked], Sampling]] = []
    if plan.samples:
        drawn = replace(sampling, n=plan.samples, temperature=_SAMPLE_TEMPERATURE)
        wanted.append(("samples", there, drawn))
    if plan.verdicts:
        judged = [replace(item, query=_verification(item.query, entries[item.id], plan.verdicts)) for item in there]
        wanted.append(("verdicts", judged, Sampling(16, TEMPERATURE, n=plan.verdicts, seed=sampling.seed)))
    for what, queries, how_sampled in wanted:
        how = replace(plan.how, sampling=how_sampled)
        with means.open_journal(f"{name}.{what}", queries, pools, how) as kept:
            await collect(queries, pools, how, journal=kept, tell=means.tell)
            for entry in kept.entries:
                if entry.failed is None:
                    found[what].setdefault(entry.query, []).append(entry)
    return _Further(found["samples"], found["verdicts"])


def _verification(query: Query, entry: Entry, verdicts: int) -> Query:
    return verification_query(AnswerEvidence(query, entry.texts[0]), verdicts)


def _joined(rows: Sequence[Asked], datasets: Mapping[str, Dataset]) -> Dataset:
    """The pools' datasets over the same rows."""
    parts = {}
    for name, dataset in datasets.items():
        place = {query: at for at, query in enumerate(dataset.ids)}
        parts[name] = dataset.take([place[item.id] for item in rows])
    first = next(iter(parts.values()))
    return replace(first, pools={name: part.pools[name] for name, part in parts.items()})


def _answer(pool: Pool, entry: Entry) -> dict[str, Any]:
    tokens = (entry.detail or {}).get("tokens") or [[]]
    return {
        "model": pool.model,
        "cost": entry.cost_usd,
        "ms": round(entry.latency_ms, 1),
        "tin": entry.prompt_tokens,
        "tout": entry.completion_tokens,
        "ans": entry.texts[0],
        "tokens": tokens[0],
    }
