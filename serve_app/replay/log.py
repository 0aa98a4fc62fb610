"""Decisions of the log as columns: what a replay needs of each, in arrays of equal length."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.store.base import TIE
from serve_app.store.filtering import DecisionFilter
from serve_app.store.reading import decision_rows

Texts = NDArray[np.object_]

_NUMBERS: Final = ("created_s", "score", "threshold", "cost_usd", "prompt_tokens", "completion_tokens")
_TEXTS: Final = ("decision_id", "strategy", "pool", "status", "endpoint", "router", "policy_version", "privacy")
_PROMPT: Final = "prompt"


@dataclass(frozen=True, slots=True)
class DecisionColumns:
    """Decisions, oldest first; arrays of shape [n]. A number that there is not is nan, such a text None.

    `rating` is the mean score of the feedback on the answer.
    """

    decision_id: Texts
    created_s: Floats
    strategy: Texts
    pool: Texts
    status: Texts
    endpoint: Texts
    router: Texts
    policy_version: Texts
    privacy: Texts
    score: Floats
    threshold: Floats
    cost_usd: Floats
    prompt_tokens: Floats
    completion_tokens: Floats
    rating: Floats
    better: Floats
    """Comparisons that the answer has won against the other of `small` and `large`."""
    worse: Floats
    """Comparisons that it has lost."""
    equal: Floats
    """Comparisons without a winner."""
    prompt: Texts

    def __len__(self) -> int:
        return len(self.decision_id)

    @classmethod
    def of_file(cls, path: Path, which: DecisionFilter, *, prompts: bool = False, newest: int | None = None) -> Self:
        """From a store's file, by default all. Raises ConfigError if it cannot be read."""
        names = (*_NUMBERS, *_TEXTS, *([_PROMPT] if prompts else []))
        rows, given = decision_rows(path, which, names, newest)
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return cls._made(dict(zip(names, columns, strict=True)), given)

    @classmethod
    def of_records(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """From records with their feedback, as the API returns them, in any order."""
        ordered = sorted(records, key=lambda r: (float(r["created_s"]), str(r["decision_id"])))
        columns = {name: [record.get(name) for record in ordered] for name in (*_NUMBERS, *_TEXTS, _PROMPT)}
        given = [
            (record["decision_id"], one.get("score"), one.get("preferred"), one.get("against"))
            for record in ordered
            for one in record.get("feedback", ())
        ]
        return cls._made(columns, given)

    def take(self, chosen: NDArray[np.bool_]) -> Self:
        """Some of them, in the same order."""
        return type(self)(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @classmethod
    def _made(cls, columns: Mapping[str, Sequence[Any]], given: Iterable[Sequence[Any]]) -> Self:
        n = len(columns["decision_id"])
        texts = {name: _texts(columns.get(name), n) for name in (*_TEXTS, _PROMPT)}
        made: dict[str, Any] = {**texts, **{name: _numbers(columns[name]) for name in _NUMBERS}}
        made |= _feedback(texts["decision_id"], texts["pool"], given)
        return cls(**made)


class LogSieve:
    """What is left of a log. `left_out`: numbers of the other decisions, by why."""

    def __init__(self, log: DecisionColumns) -> None:
        self._log = log
        self.left_out: dict[str, int] = {}

    def keep(self, chosen: NDArray[np.bool_], why: str) -> DecisionColumns:
        """The chosen ones of those that are left; `why` the others are left out."""
        if gone := int(np.sum(~chosen)):
            self.left_out[why] = self.left_out.get(why, 0) + gone
        self._log = self._log.take(chosen)
        return self._log


def _texts(values: Sequence[Any] | None, n: int) -> Texts:
    found = np.empty(n, dtype=object)
    if values is not None:
        found[:] = values
    return found


def _numbers(values: Sequence[Any]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _feedback(ids: Texts, pools: Texts, given: Iterable[Sequence[Any]]) -> dict[str, Floats]:
    """Per decision the mean score, and how its answer compared with the other pool's."""
    at = {id_: i for i, id_ in enumerate(ids)}
    total, count = np.zeros(len(ids)), np.zeros(len(ids))
    compared = {name: np.zeros(len(ids)) for name in ("better", "worse", "equal")}
    for id_, score, preferred, against in given:
        if (i := at.get(id_)) is None:
            continue
        if score is not None:
            total[i] += score
            count[i] += 1
        if preferred is not None and {pools[i], against} == {"small", "large"}:
            compared["equal" if preferred == TIE else "better" if preferred == pools[i] else "worse"][i] += 1
    rating = np.divide(total, count, out=np.full(len(ids), np.nan), where=count > 0)
    return {"rating": rating, **compared}
