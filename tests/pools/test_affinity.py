"""Requests for an adapter go where it is in memory, unless that replica is much busier."""

import random
from collections import Counter

from serve_app.pools.directory import Directory, ReplicaReport
from tests.pools.test_directory import Clock

A, B, C = "http://a/v1", "http://b/v1", "http://c/v1"


def directory(clock=None, **held: object) -> Directory:
    made = Directory("small", rng=random.Random(0), **({"clock": clock} if clock else {}))
    made.update(
        [ReplicaReport(address, adapters=held.get(name, ())) for name, address in zip("abc", (A, B, C), strict=True)]
    )
    return made


async def picked(d: Directory, adapter: str | None, count: int = 60) -> Counter:
    return Counter([(await d.pick(adapter=adapter)).address for _ in range(count)])


async def test_a_holder_is_preferred_and_of_several_the_less_loaded() -> None:
    assert set(await picked(directory(b=("sort",)), "sort")) == {B}
    both = directory(a=("sort",), b=("sort",))
    assert set(await picked(both, "sort")) == {A, B}
    both.members[0].in_flight = 2
    assert set(await picked(both, "sort")) == {B}


async def test_without_an_adapter_and_for_a_directory_without_affinity_holders_count_for_nothing() -> None:
    assert set(await picked(directory(b=("sort",)), None, 200)) == {A, B, C}
    d = directory(b=("sort",))
    d.affinity = False
    assert set(await picked(d, "sort", 200)) == {A, B, C}


async def test_a_holder_that_is_much_busier_is_left_out() -> None:
    d = directory(b=("sort",))
    d.members[1].in_flight = 4
    assert set(await picked(d, "sort")) == {B}
    d.members[1].in_flight = 5
    assert B not in await picked(d, "sort")


async def test_one_that_no_member_holds_goes_to_one_member_the_same_for_every_gateway() -> None:
    names = [f"adapter-{i}" for i in range(60)]
    homes = [{name: (await directory().pick(adapter=name)).address for name in names} for _ in range(2)]
    assert homes[0] == homes[1]
    spread = Counter(homes[0].values())
    assert set(spread) == {A, B, C} and min(spread.values()) > 8
    without = directory()
    without.update([ReplicaReport(A), ReplicaReport(C)])
    moved = {name for name in names if (await without.pick(adapter=name)).address != homes[0][name]}
    assert moved == {name for name in names if homes[0][name] == B}, "the others stay where they are"


async def test_a_member_is_believed_to_load_what_was_sent_there_until_its_report_is_due() -> None:
    clock = Clock()
    d = directory(clock)
    home = await d.pick(adapter="sort")
    home.in_flight = 5  # so that a first request would go elsewhere
    other = await d.pick(adapter="sort")
    assert other is not home
    home.in_flight = 0
    assert set(await picked(d, "sort")) <= {home.address, other.address}
    clock.now += 10
    other.sent.clear()
    assert (await d.pick(adapter="sort")) is home


async def test_what_was_sent_is_not_remembered_for_ever() -> None:
    clock = Clock()
    d = directory(clock)
    for i in range(2000):
        clock.now += 0.1
        await d.pick(adapter=f"adapter-{i}")
    assert sum(len(m.sent) for m in d.members) <= 3 * 257


async def test_a_draining_holder_is_not_picked() -> None:
    d = directory(b=("sort",))
    d.draining(d.members[1])
    assert B not in await picked(d, "sort")
