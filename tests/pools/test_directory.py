"""The directory: membership, power of two choices, rest after failures, waiting."""

import asyncio
import random
from collections import Counter

import pytest

from serve_app.errors import PoolUnavailable
from serve_app.pools.directory import Directory, Discovery, ReplicaReport


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def directory(*addresses: str, **options: object) -> Directory:
    made = Directory("small", rng=random.Random(0), **options)  # type: ignore[arg-type]
    made.update([ReplicaReport(a) for a in addresses])
    return made


async def test_the_less_loaded_of_two_is_picked() -> None:
    d = directory("a", "b")
    d.members[0].in_flight = 3
    assert {(await d.pick()).address for _ in range(20)} == {"b"}


async def test_power_of_two_never_picks_the_most_loaded_and_spreads_the_rest() -> None:
    d = directory("a", "b", "c", "d")
    for load, member in enumerate(d.members):
        member.in_flight = load
    picked = Counter([(await d.pick()).address for _ in range(600)])
    assert "d" not in picked
    assert picked["a"] > picked["b"] > picked["c"] > 0


async def test_load_of_other_gateways_counts_and_our_own_is_not_counted_twice() -> None:
    d = directory("a", "b")
    d.members[0].in_flight = 2
    d.update([ReplicaReport("a", running=5, waiting=1), ReplicaReport("b")])
    assert (d.members[0].in_flight, d.members[0].others, d.members[0].load) == (2, 4, 6)


async def test_a_failed_member_rests_longer_each_time_and_comes_back() -> None:
    clock = Clock()
    d = directory("a", clock=clock, wait_s=0.0)
    member = d.members[0]
    d.failed(member)
    assert (await d.pick()) is member, "failed once and nobody else is there"
    for rest in (2.0, 4.0, 8.0):
        d.failed(member)
        with pytest.raises(PoolUnavailable):
            await d.pick()
        clock.now += rest + 0.01
        assert (await d.pick()) is member
    d.succeeded(member)
    assert member.failures == 0


async def test_a_member_that_failed_once_is_not_asked_while_another_can_be() -> None:
    d = directory("a", "b", wait_s=0.0)
    d.failed(d.members[0])
    assert {(await d.pick()).address for _ in range(20)} == {"b"}
    assert (await d.pick({"b"})).address == "a"


async def test_draining_members_are_not_asked_again_and_missing_ones_are_gone() -> None:
    d = directory("a", "b")
    d.draining(d.members[0])
    assert [m.address for m in d.available] == ["b"]
    d.update([ReplicaReport("c")])
    assert [m.address for m in d.members] == ["c"]


async def test_pick_waits_for_a_member_to_come_up() -> None:
    d = Directory("small", wait_s=5.0)
    picking = asyncio.create_task(d.pick())
    await asyncio.sleep(0.02)
    d.update([ReplicaReport("a")])
    assert (await picking).address == "a"


async def test_who_leaves_while_the_members_change_does_not_wait_on() -> None:
    d = Directory("small", wait_s=60.0)
    picking = asyncio.create_task(d.pick())
    for _ in range(20):
        await asyncio.sleep(0)
    d.update([])  # wakes those who wait, and in the same turn of the loop the caller leaves
    picking.cancel()
    done, _ = await asyncio.wait((picking,), timeout=5)
    assert done and picking.cancelled()


async def test_without_members_it_says_when_to_try_again() -> None:
    with pytest.raises(PoolUnavailable, match="pool small") as caught:
        await Directory("small", wait_s=5.0).pick(wait=False)
    assert caught.value.retry_after_s == 2.0


async def test_excluded_members_are_not_waited_for() -> None:
    with pytest.raises(PoolUnavailable):
        await directory("a", wait_s=60.0).pick({"a"})


async def test_following_goes_on_when_discovery_fails() -> None:
    d, two = Directory("small"), [ReplicaReport("a"), ReplicaReport("b")]
    rounds = iter([Discovery([ReplicaReport("a")]), RuntimeError("replica died"), Discovery(two)])
    seen = asyncio.Event()

    async def discover() -> Discovery:
        found = next(rounds, None)
        if found is None:
            seen.set()
            return Discovery(two)
        if isinstance(found, RuntimeError):
            assert [m.address for m in d.members] == ["a"]
            raise found
        return found

    following = asyncio.create_task(d.follow(discover, every_s=0.01))
    await asyncio.wait_for(seen.wait(), 5)
    following.cancel()
    assert [m.address for m in d.members] == ["a", "b"]


async def test_what_failed_at_once_counts_once() -> None:
    clock = Clock()
    d = directory("a", clock=clock)
    member = d.members[0]
    for _ in range(40):  # streams that were open when the connection to it was cut
        d.failed(member, seen=0)
    assert member.failures == 1
    clock.now += 1.01
    assert d.available == [member]
    d.failed(member, seen=1)
    assert member.failures == 2


async def test_a_member_that_is_down_for_days_rests_half_a_minute_each_time() -> None:
    clock = Clock()
    d = directory("a", clock=clock)
    member = d.members[0]
    for _ in range(3000):
        d.failed(member, seen=member.failures)
    assert member.down_until == clock.now + 30.0


async def test_following_goes_on_when_discovery_hangs_or_is_cancelled_under_it() -> None:
    d = Directory("small")
    rounds = iter(["hang", "cancelled", "sound"])

    async def discover() -> Discovery:
        match next(rounds, "sound"):
            case "hang":
                await asyncio.Event().wait()
            case "cancelled":
                raise asyncio.CancelledError  # as Ray does for a replica that was killed
        return Discovery([ReplicaReport("a")])

    following = asyncio.create_task(d.follow(discover, every_s=0.01, discovery_s=0.01))
    async with asyncio.timeout(5):
        assert (await d.pick()).address == "a"
    following.cancel()
    await asyncio.wait((following,))
    assert following.cancelled()


def working(d: Directory, clock: Clock, outcomes: str) -> None:
    """Requests to member `a`, a second apart: `.` is answered, `x` fails."""
    member = d.members[0]
    for outcome in outcomes:
        clock.now += 1.0
        if outcome == ".":
            d.succeeded(member)
        else:
            d.failed(member, seen=member.failures, dead=False)


@pytest.mark.parametrize(
    ("outcomes", "ejected"),
    [("x" * 4, False), ("x" * 5, True), (".....xxxxx", True), ("......xxxxx", False), ("x....x....x....x....x", False)],
)
def test_a_member_that_is_alive_is_ejected_by_the_share_of_its_failures(outcomes: str, ejected: bool) -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    working(d, clock, outcomes)
    assert (len(d.available) == 1) is ejected


def test_the_share_is_of_the_same_time_however_many_the_requests() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    member = d.members[0]
    for i in range(6000):
        clock.now += 0.005
        d.succeeded(member)
        if i % 20 == 0:
            d.failed(member, dead=False)
        assert member in d.available and d.answering


def test_failures_of_long_ago_do_not_count() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    working(d, clock, "xxxx")
    clock.now += 60.0
    working(d, clock, "x")
    assert len(d.available) == 2


def test_the_last_member_is_never_ejected_while_it_is_alive() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    d.failed(d.members[1])  # takes no connection
    clock.now -= 10.0
    working(d, clock, "x" * 8)
    assert [m.address for m in d.available] == ["a"]


def test_a_success_from_before_an_ejection_does_not_end_it() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    working(d, clock, "xxxxx")
    d.succeeded(d.members[0], seen=0)
    assert [m.address for m in d.available] == ["b"]
    clock.now += 1.01
    d.succeeded(d.members[0], seen=1)
    assert d.members[0].failures == 0


def test_a_stream_that_breaks_is_one_failed_request_and_no_success() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)
    member = d.members[0]
    for _ in range(4):
        d.succeeded(member)
        d.failed(member, seen=0, dead=False, began=True)
    assert (len(member.ok), len(member.failing)) == (0, 4)


async def probed(d: Directory, answers: dict[str, bool | None], rounds: int = 3) -> None:
    """So many rounds of probes; None: the member does not answer."""
    seen: Counter[str] = Counter()
    over = asyncio.Event()

    async def probe(address: str) -> bool:
        seen[address] += 1
        if max(seen.values()) > rounds:
            over.set()
        if (answer := answers[address]) is None:
            await asyncio.Event().wait()
        return bool(answer)

    watching = asyncio.create_task(d.watch(probe, every_s=0.001, probe_s=0.02))
    async with asyncio.timeout(5):
        await over.wait()
    watching.cancel()
    await asyncio.wait((watching,))


async def test_a_member_that_answers_no_probe_is_left_out_until_it_answers_one() -> None:
    d = directory("a", "b")
    await probed(d, {"a": None, "b": True})
    assert [m.address for m in d.available] == [m.address for m in d.answering] == ["b"]
    assert {(await d.pick()).address for _ in range(20)} == {"b"}
    await probed(d, {"a": True, "b": True})
    assert [m.address for m in d.answering] == ["a", "b"]


async def test_the_only_member_is_picked_though_silent_and_is_not_said_to_answer() -> None:
    d = directory("a", wait_s=0.0)
    await probed(d, {"a": None})
    assert not d.available and not d.answering
    assert (await d.pick()).address == "a"


@pytest.mark.parametrize("others", [("b",), ()])
async def test_requests_that_wait_at_a_silent_member_are_let_go_if_another_is_there(others: tuple[str, ...]) -> None:
    d = directory("a", *others)
    let_go = False
    try:
        async with asyncio.timeout(60) as limit:
            d.members[0].waiting.add(limit)
            await probed(d, {"a": None, "b": True})
    except TimeoutError:
        let_go = True
    assert let_go is bool(others)


async def test_probes_that_were_late_because_this_process_was_held_up_say_nothing() -> None:
    clock = Clock()
    d = directory("a", "b", clock=clock)

    async def probe(address: str) -> bool:
        clock.now += 10.0
        raise TimeoutError

    watching = asyncio.create_task(d.watch(probe, every_s=0.001, probe_s=0.02))
    await asyncio.sleep(0.05)
    watching.cancel()
    assert len(d.available) == 2


async def test_a_member_answers_by_a_request_or_a_probe_and_no_more_once_it_is_dead() -> None:
    clock = Clock()
    d = directory("a", clock=clock)
    assert not d.answering, "nothing is known of it yet"
    d.succeeded(d.members[0])
    assert d.answering
    d.failed(d.members[0])
    clock.now += 60.0
    assert d.available and not d.answering, "it may be tried, and has not answered since"

    async def probe(address: str) -> bool:
        return True

    watching = asyncio.create_task(d.watch(probe, unheard_only=True))
    async with asyncio.timeout(5):
        while not d.answering:
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_a_probe_that_fails_itself_does_not_end_the_watch() -> None:
    d, seen = directory("a", "b"), Counter[str]()

    async def probe(address: str) -> bool:
        seen[address] += 1
        if address == "a":
            raise KeyError(address)
        return True

    watching = asyncio.create_task(d.watch(probe, every_s=0.001))
    async with asyncio.timeout(5):
        while min(seen["a"], seen["b"]) < 3:
            await asyncio.sleep(0.001)
    watching.cancel()
    assert [m.address for m in d.answering] == ["b"]


async def test_most_requests_fail_though_probes_are_answered() -> None:
    clock = Clock()
    d = directory("a", clock=clock)
    await probed(d, {"a": True}, rounds=1)
    working(d, clock, "xxxxxx")
    assert d.available and not d.answering
    working(d, clock, "........")
    assert d.answering


async def test_a_member_that_reports_late_stays_and_new_ones_are_found_meanwhile() -> None:
    d = directory("a", "b")
    d.update([ReplicaReport("b"), ReplicaReport("c")], late=1)
    assert [m.address for m in d.members] == ["a", "b", "c"]
    d.update([ReplicaReport("c")])
    assert [m.address for m in d.members] == ["c"]
