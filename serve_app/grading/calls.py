"""Calls one model with many prompts, several at once, each prompt once. What replies mean is up to the judges."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from time import time

from serve_app.errors import ConfigError, ContextLengthExceeded, JethroError, UpstreamError, reading, writing
from serve_app.grading.base import Report, silent
from serve_app.pools.base import Pool
from serve_app.types import Message, Query, Sampling, Usage
from serve_app.wire.frames import Call

_ATTEMPTS = 5
"""Of one prompt, where the error says that a retry may help."""
_LONGEST_WAIT_S = 30.0
_REPORTED_EVERY = 100
"""Replies between two lines of progress."""


@dataclass(eq=False)
class JudgeCalls:
    """Greedy replies of a pool's model to single-turn prompts.

    With `journal` every reply is kept in that file as it arrives, so that a run that was cut off pays for none twice;
    the file serves any number of runs with the same model. `usage` counts what was paid for.
    """

    pool: Pool
    concurrency: int = 8
    max_tokens: int = 1024
    journal: Path | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.max_tokens < 1:
            raise ConfigError(f"concurrency {self.concurrency} and max_tokens {self.max_tokens} must each be 1 or more")
        self.usage = Usage()
        self._sampling = Sampling(temperature=0.0, max_tokens=self.max_tokens)

    @property
    def cost_usd(self) -> float:
        """Cost of all calls in US dollars, at the pool's price."""
        return self.pool.price.cost_usd(self.usage)

    async def replies(self, prompts: Sequence[str], report: Report = silent) -> list[str]:
        """The reply to each prompt; equal prompts are sent once. One too long for the model gets a note instead.

        Raises ConfigError for a journal that cannot be used, and what the pool raises once retries are of no help; what
        was answered until then is in the journal.
        """
        known = self._read()
        waiting = [prompt for prompt in dict.fromkeys(prompts) if self._key(prompt) not in known]
        queue = iter(waiting)
        before = len(known)

        def report_done() -> None:
            done = len(known) - before
            if done % _REPORTED_EVERY == 0 or done == len(waiting):
                report(f"{done:,} of {len(waiting):,} replies")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(waiting))):
                    group.create_task(self._work(queue, known, report_done))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [known[self._key(prompt)] for prompt in prompts]

    async def _work(self, queue: Iterator[str], known: dict[str, str], report_done: Callable[[], None]) -> None:
        for prompt in queue:
            key = self._key(prompt)
            try:
                known[key] = await self._reply(prompt, f"judge-{key[:16]}")
                self._write(key, known[key])
            except ContextLengthExceeded as e:
                known[key] = f"(not sent: {e.message})"
            report_done()

    async def _reply(self, prompt: str, name: str) -> str:
        query = Query((Message("user", prompt),), self._sampling)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = await self.pool.complete(query, Call(name, name, int(time())))
                break
            except JethroError as e:
                if not e.retryable or attempt == _ATTEMPTS:
                    raise
                await self.sleep(min(e.retry_after_s or 2.0**attempt, _LONGEST_WAIT_S))
        try:
            text = str(answer.parsed["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError) as e:
            raise UpstreamError(f"pool {self.pool.name!r} sent no chat completion: {answer.body[:80]!r}") from e
        spent, paid = answer.usage, self.usage
        self.usage = Usage(paid.prompt_tokens + spent.prompt_tokens, paid.completion_tokens + spent.completion_tokens)
        return text

    def _key(self, prompt: str) -> str:
        """Names prompt, model and bounds of the reply."""
        key = json.dumps([self.pool.model, self._sampling.max_tokens, prompt])
        return blake2b(key.encode(), digest_size=16).hexdigest()

    def _read(self) -> dict[str, str]:
        """Replies kept by key; a line that a kill cut short is as if it were not there."""
        if self.journal is None or not self.journal.exists():
            return {}
        with reading(self.journal, "give another journal"):
            lines = self.journal.read_text("utf-8", errors="replace").splitlines()
        known = {}
        for line in lines:
            try:
                kept = json.loads(line)
                known[str(kept["key"])] = str(kept["reply"])
            except (ValueError, KeyError, TypeError):
                continue
        return known

    def _write(self, key: str, reply: str) -> None:
        if self.journal is None:
            return
        with writing(self.journal, "give another journal"):
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("a", encoding="utf-8") as out:
                out.write("\n" + json.dumps({"key": key, "reply": reply}))  # first a new line: the last may be cut
