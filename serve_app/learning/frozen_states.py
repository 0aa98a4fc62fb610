"""Keeps what the frozen part of an encoder gives for a text, so that several fine-tunings compute it once.

Routers that are compared, and the folds of one, train on the same texts above the same frozen layers. One frozen part
at a time is kept, up to a size; what goes beyond is not kept, and computed anew for every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

from serve_app.learning.text_network import TextNetwork

BYTES = 1 << 30
"""Size of all states that are kept."""
_ROWS = 128


class FrozenStates:
    """States by token ids, of the frozen part that was asked for last. Safe to call from several threads."""

    def __init__(self) -> None:
        self._part: object = None
        self._kept: dict[tuple[int, ...], Any] = {}
        self._lock = Lock()

    def of(self, network: TextNetwork, rows: Sequence[list[int]]) -> list[Any] | None:
        """A tensor [tokens, width] for each row; None if nothing is frozen or they would be too many to keep."""
        if not network.frozen_below or 4 * network.width * sum(map(len, rows)) > BYTES:
            return None
        with self._lock:
            if self._part != network.frozen_part:
                self._part, self._kept = network.frozen_part, {}
            missing = sorted({tuple(row) for row in rows} - self._kept.keys(), key=lambda row: (len(row), row))
            size = sum(map(len, self._kept)) + sum(map(len, missing))
            if 4 * network.width * size > BYTES:
                self._kept = {}
                missing = sorted({tuple(row) for row in rows}, key=lambda row: (len(row), row))
            for start in range(0, len(missing), _ROWS):
                batch = missing[start : start + _ROWS]
                self._kept.update(zip(batch, network.below([list(row) for row in batch]), strict=True))
            return [self._kept[tuple(row)] for row in rows]


states = FrozenStates()
"""Of the whole process."""
