"""Battles between two models' answers to one query, with a winner: what RouteLLM's routers learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.parquet import Table, messages_column, text_column, write_table
from serve_app.types import Query

Ties = Literal["drop", "half", "weak"]
"""What a tie counts as: nothing, half a win for either, or a win of the pair's weak model, whose answer was enough."""
KIND: Final = "jethro-preferences"
_WINNERS: Final = {"model_a": 1.0, "tie": 0.5, "model_b": 0.0}


@dataclass(frozen=True, slots=True)
class Preferences:
    """n battles; `outcome` of shape [n]: 1 where `model_a` won, 0 where `model_b` did, 0.5 for a tie."""

    queries: tuple[Query, ...]
    model_a: tuple[str, ...]
    model_b: tuple[str, ...]
    outcome: Floats

    def __post_init__(self) -> None:
        n = len(self.queries)
        if any(len(column) != n for column in (self.model_a, self.model_b, self.outcome)):
            raise ValueError("preferences need one model_a, model_b and outcome for each query")
        if not np.isin(self.outcome, (0.0, 0.5, 1.0)).all():
            raise ValueError("outcome must be 1 (a won), 0 (b won) or 0.5 (tie)")

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """Some of the battles, in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        queries, a, b = (tuple(c[i] for i in at) for c in (self.queries, self.model_a, self.model_b))
        return type(self)(queries, a, b, self.outcome[at])

    def plus(self, other: "Preferences | None") -> Self:
        """These battles, then the others'."""
        if other is None:
            return self
        outcome = np.concatenate([self.outcome, other.outcome])
        queries, a, b = self.queries + other.queries, self.model_a + other.model_a, self.model_b + other.model_b
        return type(self)(queries, a, b, outcome)

    def settled(self, ties: Ties, weak: str, strong: str) -> Self:
        """The battles of one model with another, ties treated as `ties` says; with "weak" others' ties are dropped."""
        sides = list(zip(self.model_a, self.model_b, strict=True))
        of_pair = np.array([{a, b} == {weak, strong} for a, b in sides], dtype=bool)
        used = np.array([a != b for a, b in sides], dtype=bool)
        tied = self.outcome == 0.5
        outcome = self.outcome
        if ties == "weak":
            outcome = np.where(tied & of_pair, np.array([float(a == weak) for a in self.model_a]), outcome)
        if ties != "half":
            used &= ~tied | (of_pair & (ties == "weak"))
        return type(self)(self.queries, self.model_a, self.model_b, outcome).take(np.flatnonzero(used))

    def save(self, path: Path) -> None:
        """Write a Parquet file, whole or not at all: id, messages, model_a, model_b, winner. Needs extra `train`."""
        winner = {outcome: name for name, outcome in _WINNERS.items()}
        columns = {
            "id": text_column([str(i) for i in range(len(self))]),
            "messages": messages_column(self.queries),
            "model_a": text_column(self.model_a),
            "model_b": text_column(self.model_b),
            "winner": text_column([winner[float(o)] for o in self.outcome]),
        }
        write_table(path, columns, {"kind": KIND})

    @classmethod
    def load(cls, path: Path) -> "Preferences":
        """The battles in a Parquet file. Raises DataError naming file, row and column. Needs the extra `train`."""
        table = Table(path, KIND)
        winners = table.texts("winner")
        for row, winner in enumerate(winners):
            if winner not in _WINNERS:
                raise table.fault(row, "winner", f"is {winner!r}, not one of {', '.join(_WINNERS)}")
        outcome = np.array([_WINNERS[w] for w in winners], dtype=np.float64)
        return cls(table.queries(), table.texts("model_a"), table.texts("model_b"), outcome)
