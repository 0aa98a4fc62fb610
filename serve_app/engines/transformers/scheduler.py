"""Which sequence joins the batch next: first come, first served, within rows, prefill tokens and cache memory.

Continuous batching at every step: Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative
Models, OSDI 2022, section 3.1.
"""

from collections import deque
from dataclasses import dataclass

from serve_app.engines.transformers.sequence import Request, Sequence


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one step.

    `rows`: sequences in the batch. `prefill_rows` and `prefill_tokens`: prompts read in one pass and their tokens,
    padding included, so that running sequences wait only briefly. `cells`: rows times the longest sequence that may
    come, which bounds the cache's memory.
    """

    rows: int
    prefill_rows: int = 32
    prefill_tokens: int = 2048
    cells: int = 1 << 20


class Scheduler:
    """The queue before the batch. A request's choices may join one after another."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: deque[Sequence] = deque()

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queues all choices of a request."""
        self._waiting.extend(request.sequences)

    def clear(self) -> list[Sequence]:
        """Empties the queue and returns its sequences."""
        waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def admit(self, running: list[Sequence]) -> list[Sequence]:
        """The sequences that join now; cancelled ones are dropped. If nothing runs at least one joins."""
        joiners: list[Sequence] = []
        prompts: set[Request] = set()
        longest_prompt = 0
        end = max((s.end for s in running), default=0)
        while self._waiting:
            sequence = self._waiting[0]
            if sequence.request.cancelled:
                self._waiting.popleft()
                continue
            longest_prompt = max(longest_prompt, sequence.length)
            end = max(end, sequence.end)
            rows = len(running) + len(joiners) + 1
            reading = len(prompts | {sequence.request})
            if rows > 1 and not self._fits(rows, reading, reading * longest_prompt, rows * end):
                break
            prompts.add(sequence.request)
            joiners.append(self._waiting.popleft())
        return joiners

    def _fits(self, rows: int, reading: int, tokens: int, cells: int) -> bool:
        limits = self._limits
        return (
            rows <= limits.rows
            and reading <= limits.prefill_rows
            and (tokens <= limits.prefill_tokens or reading == 1)
            and cells <= limits.cells
        )
