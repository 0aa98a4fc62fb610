"""Who is in a pool, how loaded each one is, and whom to ask next.

A Directory holds members by address and picks by power of two choices: two members drawn at random, the less loaded
one taken (Mitzenmacher, "The power of two choices in randomized load balancing", 2001). Load is what this Gateway has
in flight at the member plus what the member last reported beyond that (other Gateways' requests). The Directory knows
nothing of Ray: somebody gives it a `discover` function, or fixed addresses.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serve_app.errors import PoolUnavailable
from serve_app.replies import reply

logger = logging.getLogger("jethro.pools")

_COOL_DOWN_S = 1.0  # a member that failed is left alone this long, doubled at each further failure
_COOL_DOWN_MAX_S = 30.0
_MOST_DOUBLINGS = 5  # by then the longest rest is reached
_DISCOVERY_S = 5.0  # a replica that hangs must not hide those that come and go


@dataclass(frozen=True, slots=True)
class Report:
    """What a member says of itself."""

    address: str
    running: int = 0
    waiting: int = 0
    draining: bool = False
    pid: int = 0


Discover = Callable[[], Awaitable[Sequence[Report]]]


@dataclass(slots=True, eq=False)
class Member:
    """One replica or upstream as this Gateway sees it; `in_flight` is this Gateway's own count."""

    address: str
    report: Report
    in_flight: int = 0
    others: int = 0
    failures: int = 0
    down_until: float = 0.0

    @property
    def load(self) -> int:
        """Requests that a new one would share the member with."""
        return self.in_flight + self.others


@dataclass(slots=True)
class Directory:
    """Members of one pool. `wait_s`: how long `pick` waits for a member when there is none."""

    pool: str
    wait_s: float = 10.0
    retry_after_s: float = 2.0
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.monotonic
    _members: dict[str, Member] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _refresh_now: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def fixed(cls, pool: str, addresses: Sequence[str], *, wait_s: float = 0.0) -> "Directory":
        """A Directory of addresses that never change; a failing one rests for a while and is tried again."""
        directory = cls(pool, wait_s=wait_s)
        directory.update([Report(a) for a in addresses])
        return directory

    @property
    def members(self) -> list[Member]:
        """All members that are known and not draining, down ones as well."""
        return [m for m in self._members.values() if not m.report.draining]

    @property
    def available(self) -> list[Member]:
        """Members that may be asked now."""
        now = self.clock()
        return [m for m in self._members.values() if not m.report.draining and m.down_until <= now]

    def update(self, reports: Sequence[Report]) -> None:
        """Take what was discovered as the truth: who reported is up, who is missing is gone."""
        fresh: dict[str, Member] = {}
        for report in reports:
            member = self._members.get(report.address) or Member(report.address, report)
            member.report = report
            member.others = max(0, report.running + report.waiting - member.in_flight)
            fresh[report.address] = member
        self._members = fresh
        self._notify()

    async def pick(self, exclude: Collection[str] = (), *, wait: bool = True) -> Member:
        """A member to ask, none of `exclude`.

        Raises PoolUnavailable when none is there, after `wait_s` if `wait` and nobody was excluded yet.
        """
        deadline = self.clock() + (self.wait_s if wait and not exclude else 0.0)
        while not (candidates := self._candidates(exclude)):
            self._refresh_now.set()
            left = deadline - self.clock()
            if left <= 0:
                raise PoolUnavailable(
                    f"no replica of pool {self.pool} can answer now; try again in {self.retry_after_s:.0f} s",
                    retry_after_s=self.retry_after_s,
                )
            self._changed.clear()
            # a member that is down comes back by time alone, so the wait is in short pieces
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.1)):  # `wait_for` may swallow a cancellation
                    await self._changed.wait()
        if len(candidates) <= 2:
            return min(candidates, key=lambda m: (m.load, self.rng.random()))
        return min(self.rng.sample(candidates, 2), key=lambda m: m.load)

    def _candidates(self, exclude: Collection[str]) -> list[Member]:
        """Who may be asked; when all rest, those who failed only once, since a slow machine drops connections too."""
        rested = [m for m in self.available if m.address not in exclude]
        return rested or [m for m in self.members if m.failures == 1 and m.address not in exclude]

    def succeeded(self, member: Member) -> None:
        """The member gave its first byte."""
        member.failures = 0
        member.down_until = 0.0

    def failed(self, member: Member, seen: int | None = None) -> None:
        """The member refused the connection, broke it or did not answer: it rests, and a refresh is asked for.

        `seen`: its failures when the request was sent. All that were open when it failed count as one failure, or a
        moment's fault would put a busy member to the longest rest.
        """
        self._refresh_now.set()
        if seen is not None and seen != member.failures:
            return
        rest_s = _COOL_DOWN_S * 2 ** min(member.failures, _MOST_DOUBLINGS)
        member.down_until = self.clock() + min(rest_s, _COOL_DOWN_MAX_S)
        member.failures += 1

    def draining(self, member: Member) -> None:
        """The member said that it is stopping: nobody asks it again."""
        report = member.report
        member.report = Report(report.address, report.running, report.waiting, draining=True, pid=report.pid)
        self._refresh_now.set()

    async def follow(self, discover: Discover, *, every_s: float = 1.0, discovery_s: float = _DISCOVERY_S) -> None:
        """Refresh from `discover` until cancelled: at once when a member failed, and every `every_s`.

        A discovery that fails or hangs leaves the members as they are: those that answer go on answering.
        """
        while True:
            self._refresh_now.clear()
            try:
                async with asyncio.timeout(discovery_s):
                    found = await reply(discover())
                self.update(found)
            except Exception as e:  # whatever discovery does, serving goes on
                logger.warning(
                    "pool %s: discovery failed (%s: %s); members stay as known", self.pool, type(e).__name__, e
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._refresh_now.wait()
                await asyncio.sleep(0.1)  # a storm of failures asks for one refresh, not for thousands

    def _notify(self) -> None:
        self._changed.set()
