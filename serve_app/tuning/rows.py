"""What an adapter learns from: conversations that end in the answer to be learned, from files or the decision log.

    {"prompt": ..., "completion": ...}       one turn
    {"messages": [...]}                      the last message is the assistant's: the answer

The decision log keeps prompts (with `store.keep_prompts`) and callers' feedback, never answers. These come from
recorded answers (`jethro data collect`): what the pool that was rated well, or preferred, answered to the same prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.data.dataset import Dataset
from serve_app.data.records import Record, messages_of, read_records
from serve_app.errors import DataError
from serve_app.grading.feedback import FeedbackLog
from serve_app.store.base import TIE

FEWEST: Final = 20
"""Rows; with fewer, two or less are held out and nothing can be said of the adapter."""


@dataclass(frozen=True, slots=True)
class TuningRow:
    """A conversation in OpenAI's form, without the answer, and the answer; `where` it was read, for messages."""

    messages: tuple[Mapping[str, Any], ...]
    answer: str
    where: str

    @property
    def text(self) -> str:
        """The conversation as one text: what says on which side of the split a row is."""
        return "\n".join(str(message.get("content")) for message in self.messages)


def read_rows(paths: Sequence[Path]) -> list[TuningRow]:
    """The rows of files of JSON lines (.gz too), CSV or Parquet. Raises DataError naming file and line."""
    return [read_row(record) for path in paths for record in read_records(path)]


def read_row(record: Record) -> TuningRow:
    """One row. Raises DataError naming it."""
    answer = record.text("completion", "answer")
    messages = [message.to_openai() for message in messages_of(record)]
    if answer is None:
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise record.fault(
                "there is no answer: a row needs prompt and completion, or messages whose last is the assistant's"
            )
        answer = str(messages.pop()["content"])
    if not answer.strip():
        raise record.fault("the answer is empty: remove the row, or write its answer")
    if messages[-1]["role"] == "assistant":
        raise record.fault("the message before the answer is the assistant's: it must be the user's or a tool's")
    return TuningRow(tuple(messages), answer, record.where)


def best_answers(dataset: Dataset, least: float, pools: Sequence[str] = ()) -> list[TuningRow]:
    """Of each query the best answer of `pools` (none: of all) if its quality is at least `least`.

    Of equally good ones the first pool's. Raises DataError for an unknown pool.
    """
    chosen = _known_pools(dataset, pools)
    rows = []
    for i, query in enumerate(dataset.queries):
        scored = [
            (float(q), text)
            for name in chosen
            for q, text in zip(dataset.pools[name].quality[i], dataset.pools[name].texts[i], strict=True)
            if q >= least and text.strip()
        ]
        if scored:
            text = max(scored, key=lambda one: one[0])[1]
            messages = tuple(message.to_openai() for message in query.messages)
            rows.append(TuningRow(messages, text, f"query {dataset.ids[i] if dataset.ids else i}"))
    return rows


def liked_answers(log: FeedbackLog, dataset: Dataset, least: float) -> list[TuningRow]:
    """Recorded answers of pools that callers rated at least `least` for a prompt, or preferred over another.

    The log says which pool answered a prompt well, the dataset what it answers; a prompt is matched by its text, and
    the pool's model must be the recorded one. Of several pools the best rated one's answer is taken; a preference
    counts as 1.
    """
    liked: dict[str, dict[str, float]] = {}
    for row in log.scores:
        if row.score is not None and row.score >= least and log.models[row.pool] == row.model:
            liked.setdefault(row.prompt or "", {})[row.pool] = row.score
    for row in log.preferred:
        if row.preferred is not None and row.preferred != TIE:
            liked.setdefault(row.prompt or "", {})[row.preferred] = 1.0
    rows = []
    for i, query in enumerate(dataset.queries):
        pools = {
            name: score
            for name, score in liked.get(query.text, {}).items()
            if name in dataset.pools and dataset.pools[name].model == log.models.get(name)
        }
        if not pools:
            continue
        answers = dataset.pools[max(pools, key=lambda name: pools[name])]
        quality = np.nan_to_num(answers.quality[i], nan=0.0)
        text = answers.texts[i][int(quality.argmax())]
        if text.strip():
            messages = tuple(message.to_openai() for message in query.messages)
            rows.append(TuningRow(messages, text, f"query {dataset.ids[i] if dataset.ids else i}"))
    return rows


def checked(rows: Sequence[TuningRow], source: str) -> list[TuningRow]:
    """The rows without repetitions. Raises DataError if they are too few."""
    distinct = {(row.text, row.answer): row for row in rows}
    if len(distinct) < FEWEST:
        raise DataError(f"{source}: {len(distinct):,} different rows; an adapter needs {FEWEST} or more")
    return list(distinct.values())


def rows_sha256(rows: Iterable[TuningRow]) -> str:
    """SHA-256, in hex, of what is learned from, whatever files it was read from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.messages, row.answer], sort_keys=True, default=dict).encode() + b"\n")
    return digest.hexdigest()


def _known_pools(dataset: Dataset, pools: Sequence[str]) -> Sequence[str]:
    for name in pools:
        if name not in dataset.pools:
            raise DataError(f"pool {name!r}: the data has answers of {', '.join(dataset.pools)}")
    return pools or list(dataset.pools)
