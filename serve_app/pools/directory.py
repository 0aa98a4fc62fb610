"""The members of a pool, their loads, and the choice of one for the next request.

A Directory picks by power of two choices: of two members drawn at random, the less loaded one (Mitzenmacher, "The power
of two choices in randomized load balancing", 2001). The load of a member is this Gateway's requests in flight there
plus the other requests it last reported. Members come from a `discover` function or are fixed addresses.

A request for an adapter goes to a member that holds it, unless that is much busier than another. One that no member
holds has a member of its own, the same for every Gateway (rendezvous hashing: Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", 1998).

A member is ejected at once when it is dead, that is, takes no connection. One that is alive is ejected for the share of
different requests that failed there of late, and only while another can answer. A replica that takes connections and
answers no probe (stopped, or spinning) is silent: requests that wait there for a first byte are sent to another.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from serve_app.errors import PoolUnavailable, replica_reply

logger = logging.getLogger("jethro.pools")

_COOLDOWN_S = 1.0  # of a member that is ejected; doubled at each further time
_COOLDOWN_MAX_S = 30.0
_WINDOW_S = 30.0
_LEAST_FAILURES = 5  # different requests: fewer say nothing of the member
_MOST_FAILING = 0.5  # share of the requests in the window
_REMEMBERED = 256  # requests
_MOST_DOUBLINGS = 5  # by then the longest cooldown is reached
_DISCOVERY_S = 5.0
_PROBE_EVERY_S = 0.4
_PROBE_S = 1.0
_OWN_DELAY_S = 0.5  # a round of probes that took that much longer says that this process was held up itself
_MOST_MISSED = 2  # probes
_BELIEVED_S = 3.0  # that a member loads the adapter of a request sent there, until it reports it
_BUSIER, _BUSIER_BY = 2, 4  # a holder is left out above this many times another's load, and these requests


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A member's address and state, as it reports them."""

    address: str
    running: int = 0
    waiting: int = 0
    draining: bool = False
    pid: int = 0
    adapters: Collection[str] = ()
    """Adapters in its memory."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What replicas reported. `late`: replicas that exist and did not report in time."""

    reports: Sequence[ReplicaReport] = ()
    late: int = 0


Discover = Callable[[], Awaitable[Discovery]]
Probe = Callable[[str], Awaitable[bool]]
"""Whether the member at the address answers; it may take any time."""


@dataclass(slots=True, eq=False)
class Member:
    """One replica or upstream as this Gateway sees it; `in_flight` is this Gateway's own count.

    `failures` counts ejections since the last success; `ok` and `failing` are the times of requests by outcome.
    `heard`: it answered a request or a probe since it was last found dead. `missed`: consecutive probes without an
    answer. `waiting`: limits of requests that wait there for a first byte.
    """

    address: str
    report: ReplicaReport
    in_flight: int = 0
    others: int = 0
    failures: int = 0
    down_until: float = 0.0
    ok: deque[float] = field(default_factory=deque)
    failing: deque[float] = field(default_factory=deque)
    heard: bool = False
    missed: int = 0
    waiting: set[asyncio.Timeout] = field(default_factory=set)
    sent: dict[str, float] = field(default_factory=dict)
    """By adapter, when a request for it was last sent here."""

    def holds(self, adapter: str, now_s: float) -> bool:
        """Whether the adapter is in its memory, by its report or because it was just requested there."""
        return adapter in self.report.adapters or now_s - self.sent.get(adapter, -_BELIEVED_S) < _BELIEVED_S

    def note(self, outcomes: deque[float], now_s: float) -> None:
        """Add a request to one of the outcomes, and forget the oldest of both: their share is of the same time."""
        outcomes.append(now_s)
        if len(self.ok) + len(self.failing) > _REMEMBERED:
            oldest = self.ok if not self.failing or (self.ok and self.ok[0] <= self.failing[0]) else self.failing
            oldest.popleft()

    @property
    def silent(self) -> bool:
        """It takes connections, and answers nothing."""
        return self.missed >= _MOST_MISSED

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
    longest_cooldown_s: float = _COOLDOWN_MAX_S
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.monotonic
    affinity: bool = True
    """Prefer members that hold a request's adapter."""
    begun: bool = False
    """Whether any member has ever answered."""
    _members: dict[str, Member] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _refresh_now: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def fixed(cls, pool: str, addresses: Sequence[str], *, wait_s: float = 0.0) -> "Directory":
        """A Directory of addresses that never change; one that fails is tried again after its cooldown.

        The only address has a short one: no other can answer meanwhile.
        """
        directory = cls(pool, wait_s=wait_s)
        if len(addresses) == 1:
            directory.longest_cooldown_s = _COOLDOWN_S
        directory.update([ReplicaReport(a) for a in addresses])
        return directory

    @property
    def members(self) -> list[Member]:
        """All known members that are not draining, those in cooldown included."""
        return [m for m in self._members.values() if not m.report.draining]

    @property
    def available(self) -> list[Member]:
        """Members that can take a request now."""
        now = self.clock()
        return [m for m in self.members if m.down_until <= now and not m.silent]

    @property
    def answering(self) -> list[Member]:
        """Members of which it is known that they answer: by a request or a probe, and most requests of late."""
        now = self.clock()
        return [m for m in self.available if m.heard and not self._mostly_fails(m, now)]

    def update(self, reports: Sequence[ReplicaReport], *, late: int = 0) -> None:
        """Replace the members by those that reported; a missing one is gone, unless some were `late`."""
        fresh: dict[str, Member] = dict(self._members) if late else {}
        for report in reports:
            member = self._members.get(report.address) or Member(report.address, report)
            member.report = report
            member.others = max(0, report.running + report.waiting - member.in_flight)
            fresh[report.address] = member
        self._members = fresh
        self._changed.set()

    async def pick(self, exclude: Collection[str] = (), *, wait: bool = True, adapter: str | None = None) -> Member:
        """A member for the next request, none of `exclude`; preferably one that holds `adapter`.

        Raises PoolUnavailable if there is none, after `wait_s` if `wait` and none is excluded yet.
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
            # a cooldown ends by time alone, so the wait is in short pieces
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.1)):  # `wait_for` may swallow a cancellation
                    await self._changed.wait()
        if adapter is None or not self.affinity:
            return self._less_loaded(candidates)
        return self._holder(candidates, adapter)

    def _less_loaded(self, candidates: Sequence[Member]) -> Member:
        """Of two drawn at random, the less loaded one."""
        if len(candidates) == 1:
            return candidates[0]
        if len(candidates) == 2:
            return min(candidates, key=lambda m: (m.load, self.rng.random()))
        return min(self.rng.sample(candidates, 2), key=lambda m: m.load)

    def _holder(self, candidates: Sequence[Member], adapter: str) -> Member:
        """A member that holds the adapter, or is to load it."""
        now = self.clock()
        holders = [m for m in candidates if m.holds(adapter, now)]
        preferred = self._less_loaded(holders) if holders else max(candidates, key=lambda m: _affinity(adapter, m))
        other = self._less_loaded(candidates)
        chosen = other if preferred.load > _BUSIER * other.load + _BUSIER_BY else preferred
        chosen.sent[adapter] = now
        if len(chosen.sent) > _REMEMBERED:
            chosen.sent = {name: at for name, at in chosen.sent.items() if now - at < _BELIEVED_S}
        return chosen

    def _candidates(self, exclude: Collection[str]) -> list[Member]:
        """Members to pick from; if all are cooling down, those that failed once: a slow host drops connections too.

        Where all that are left are silent, these: a request that waits is not lost.
        """
        now = self.clock()
        usable = [m for m in self.members if m.address not in exclude]
        up = [m for m in usable if m.down_until <= now]
        return [m for m in up if not m.silent] or [m for m in usable if m.failures == 1] or up

    def succeeded(self, member: Member, seen: int | None = None) -> None:
        """The member gave its first byte. One that was requested before an ejection (see `failed`) does not end it."""
        if seen is None or seen == member.failures:
            member.failures = 0
            member.down_until = 0.0
        member.heard = self.begun = True
        member.missed = 0
        member.note(member.ok, self.clock())

    def failed(self, member: Member, seen: int | None = None, *, dead: bool = True, began: bool = False) -> None:
        """A request failed at the member: may eject it, which starts its cooldown; requests a refresh.

        To be called once for a request. `dead`: it takes no connection. `began`: the request counted as a success at
        its first byte. `seen`: the member's `failures` when the request was sent. Requests that were open when it was
        ejected count as one failure; otherwise a brief fault of a busy member would cause the longest cooldown.
        """
        self._refresh_now.set()
        if seen is not None and seen != member.failures:
            return
        now = self.clock()
        if began and member.ok:
            member.ok.pop()
        member.note(member.failing, now)
        if not dead and not (self._mostly_fails(member, now) and any(m is not member for m in self.available)):
            return
        cooldown_s = _COOLDOWN_S * 2 ** min(member.failures, _MOST_DOUBLINGS)
        member.down_until = now + min(cooldown_s, self.longest_cooldown_s)
        member.failures += 1
        member.heard = member.heard and not dead
        member.ok.clear()
        member.failing.clear()

    def _mostly_fails(self, member: Member, now: float) -> bool:
        for times in (member.ok, member.failing):
            while times and times[0] < now - _WINDOW_S:
                times.popleft()
        failing = len(member.failing)
        return failing >= _LEAST_FAILURES and failing >= _MOST_FAILING * (failing + len(member.ok))

    def draining(self, member: Member) -> None:
        """The member reported that it is stopping: it gets no further requests."""
        member.report = replace(member.report, draining=True)
        self._refresh_now.set()

    async def follow(self, discover: Discover, *, every_s: float = 1.0, discovery_s: float = _DISCOVERY_S) -> None:
        """Refresh from `discover` until cancelled: at once when a member failed, and every `every_s`.

        A discovery that fails or hangs leaves the members unchanged.
        """
        while True:
            self._refresh_now.clear()
            try:
                async with asyncio.timeout(discovery_s):
                    found = await replica_reply(discover())
                self.update(found.reports, late=found.late)
            except Exception as e:  # serving continues without it
                kind = type(e).__name__
                logger.warning("pool %s: discovery failed (%s: %s); the known members stay", self.pool, kind, e)
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._refresh_now.wait()
                await asyncio.sleep(0.1)  # many failures at once cause one refresh, not thousands

    async def watch(
        self, probe: Probe, *, unheard_only: bool = False, every_s: float = _PROBE_EVERY_S, probe_s: float = _PROBE_S
    ) -> None:
        """Probe the members until cancelled. `unheard_only`: those alone of which it is not known that they answer.

        A member that misses `_MOST_MISSED` probes, each of `probe_s`, is silent until it answers one.
        """
        while True:
            members = [m for m in self.members if not (unheard_only and m.heard)]
            start_s = self.clock()
            answers = await asyncio.gather(*(_probed(probe, m, probe_s) for m in members))
            if self.clock() - start_s < probe_s + _OWN_DELAY_S:
                for member, answer in zip(members, answers, strict=True):
                    self._judge(member, answer, missing=not unheard_only)
            await asyncio.sleep(every_s)

    def _judge(self, member: Member, answer: bool | None, *, missing: bool) -> None:
        member.heard = bool(answer)
        self.begun = self.begun or member.heard
        if answer is not None or not missing:
            member.missed = 0
            return
        member.missed += 1
        if member.silent and any(m is not member for m in self.available):
            now = asyncio.get_running_loop().time()
            for limit in member.waiting:
                limit.reschedule(now)


def _affinity(adapter: str, member: Member) -> bytes:
    """By which each Gateway finds the same member for an adapter; few adapters move when a member comes or goes."""
    return blake2b(f"{adapter}\n{member.address}".encode(), digest_size=8).digest()


async def _probed(probe: Probe, member: Member, probe_s: float) -> bool | None:
    """Whether it answers well; None if it does not answer."""
    try:
        async with asyncio.timeout(probe_s):
            return await probe(member.address)
    except TimeoutError:
        return None
    except Exception:  # the members are watched all the same
        logger.exception("the probe of %s failed", member.address)
        return False
