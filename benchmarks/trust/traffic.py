"""Open-loop traffic, streams and whole answers in turn, and what became of every request, and readiness meanwhile."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic

import aiohttp
import orjson

from benchmarks.load.prompts import lab_prompts

LIMIT_S = 60.0
_CONNECT_S = 3.0
_READY_EVERY_S = 0.25


@dataclass(slots=True)
class Sent:
    """One request. `outcome`: ok; refused (no connection); lost (accepted, and no byte of an answer); cut; or a status.

    `end_s` is when it was over, both on the monotonic clock.
    """

    start_s: float
    streamed: bool
    end_s: float = 0.0
    outcome: str = "open"


@dataclass(slots=True)
class Ready:
    """One look at readiness."""

    at_s: float
    ok: bool


@dataclass(slots=True)
class Traffic:
    """What was sent to one endpoint, and how readiness looked meanwhile."""

    url: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    looks: list[Ready] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def flowing(self, per_second: float) -> AsyncIterator[None]:
        """Requests at fixed times until the end of the block; it ends when all of them are over."""
        timeout = aiohttp.ClientTimeout(total=LIMIT_S, sock_connect=_CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, headers=self.headers, connector=connector) as session:
            open_now: set[asyncio.Task[None]] = set()
            tasks = [
                asyncio.ensure_future(self._send(session, per_second, open_now)),
                asyncio.ensure_future(self._look(session)),
            ]
            try:
                yield
            finally:
                tasks[0].cancel()
                if open_now:
                    await asyncio.wait(open_now)
                tasks[1].cancel()
                await asyncio.wait(tasks)

    async def _send(self, session: aiohttp.ClientSession, per_second: float, open_now: set[asyncio.Task[None]]) -> None:
        prompts = itertools.cycle(lab_prompts(200, seed=1))
        start_s = monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, start_s + number / per_second - monotonic()))
            body = {"model": self.model, "messages": next(prompts).messages, "stream": number % 2 == 0}
            sent = Sent(monotonic(), number % 2 == 0)
            self.sent.append(sent)
            task = asyncio.ensure_future(self._one(session, orjson.dumps(body), sent))
            open_now.add(task)
            task.add_done_callback(open_now.discard)

    async def _one(self, session: aiohttp.ClientSession, body: bytes, sent: Sent) -> None:
        outcome = "lost"
        try:
            async with session.post(
                f"{self.url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
            ) as response:
                outcome = "cut"
                text = await response.read()
                whole = b"[DONE]" in text if sent.streamed else text.rstrip().endswith(b"}")
                if response.status != 200:
                    outcome = str(response.status)
                elif whole:
                    outcome = "ok"
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            outcome = "refused"
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        sent.outcome, sent.end_s = outcome, monotonic()

    async def _look(self, session: aiohttp.ClientSession) -> None:
        while True:
            ok = False
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(2.0), session.get(f"{self.url}/health/ready") as response:
                    ok = response.status == 200
            self.looks.append(Ready(monotonic(), ok))
            await asyncio.sleep(_READY_EVERY_S)


def longest_outage_s(sent: Sequence[Sent]) -> float:
    """The longest time in which no request was answered, between the first send and the last."""
    return max((b - a for a, b in pairwise(_answered(sent))), default=0.0)


def longest_lie_s(sent: Sequence[Sent], looks: Iterable[Ready]) -> float:
    """The longest time that readiness said 200 while no request was answered, from its first to its last such look."""
    looks, lies = list(looks), [0.0]
    for a, b in pairwise(_answered(sent)):
        within = [look for look in looks if a < look.at_s < b]
        for ready, group in itertools.groupby(within, key=lambda look: look.ok):
            if ready:
                times = [look.at_s for look in group]
                lies.append(times[-1] - times[0])
    return max(lies)


def _answered(sent: Sequence[Sent]) -> list[float]:
    """When requests were answered, between the first and the last send."""
    if not sent:
        return []
    first, last = sent[0].start_s, sent[-1].start_s
    return [first, *sorted(s.end_s for s in sent if s.outcome == "ok" and s.end_s < last), last]
