"""No query ever reaches a pool that its class or a rule forbids, whatever fails, is full, or costs less."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import JethroError, PlacementForbidden
from serve_app.guards.personal.detector import PersonalData
from serve_app.placement.policy import PlacementPolicy
from serve_app.placement.pool import PlacedPool
from serve_app.pools.base import PoolLoad
from serve_app.strategy import Context
from serve_app.streams.base import StreamCreate
from serve_app.types import REACH, Message, Query, Sampling
from serve_app.wire.frames import Answer, Call, Frame
from tests.placement.worlds import (
    CLASSES,
    COMPETES,
    FAILURES,
    NAMES,
    PLACES,
    RULES,
    STREAM,
    TEXTS,
    recording,
    strategies,
    streams,
    tree,
)
from tests.streams.fakes import spec

PERSONAL = PersonalData(PersonalDataConfig(), {})
CALL = Call("d1", "r1", 1_700_000_000)
KEYS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["acme", "zeta"])}, optional={"privacy": CLASSES, "may_loosen": st.booleans()}
    ),
    min_size=2,
    max_size=2,
    unique_by=lambda key: key["name"],
)
WORLDS = st.fixed_dictionaries(
    {
        "places": st.fixed_dictionaries({name: PLACES for name in NAMES}),
        "keys": KEYS,
        "default": CLASSES,
        "detected": st.none() | CLASSES,
        "may_loosen": st.booleans(),
        "rules": st.lists(RULES, max_size=3),
    }
)
STATES = st.fixed_dictionaries({name: st.sampled_from(sorted(FAILURES)) for name in NAMES})
LOADS = st.fixed_dictionaries({name: st.integers(0, 40) for name in NAMES})


def allowed_by(
    world: dict[str, Any], tenant: str | None, requested: str | None, text: str, task: str | None
) -> set[str]:
    """The pools that may see the request: written down anew, from the documentation."""
    order = ["local", "private", "any"]
    key: dict[str, Any] = next((k for k in world["keys"] if k["name"] == tenant), {})
    found = {kind for kind, sign in (("email", "@"), ("phone", "+44"), ("card", "4111")) if sign in text}
    looks = world["detected"] in ("local", "private") or any("detected" in rule for rule in world["rules"])
    found = found if looks else set()
    given_ = [key.get("privacy", world["default"])] + ([world["detected"]] if found and world["detected"] else [])
    if requested and (world["may_loosen"] or key.get("may_loosen")):
        privacy = requested
    else:
        privacy = min([*given_, *([requested] if requested else [])], key=order.index)
    open_to = {"local": {"local"}, "private": {"local", "private"}, "any": {"local", "private", "public"}}[privacy]
    allowed = {name for name in NAMES if world["places"][name] in open_to}
    for rule in world["rules"]:
        applies = (
            ("tenants" not in rule or tenant in rule["tenants"])
            and ("classes" not in rule or privacy in rule["classes"])
            and ("detected" not in rule or found & set(rule["detected"]))
            and ("tasks" not in rule or task in rule["tasks"])
        )
        if applies:
            allowed &= {n for n in NAMES if world["places"][n] in rule["places"] or n in rule["pools"]}
    return allowed


async def outcome(strategy: Any, query: Query, stream: bool) -> JethroError | bool:
    """Whether there was an answer, or the error."""
    answered = False
    try:
        async for event in strategy.run(query, Context(CALL, stream)):
            answered = answered or isinstance(event, Answer | Frame)
    except JethroError as error:
        return error
    return answered


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    world=WORLDS,
    tenant=st.none() | st.sampled_from(["acme", "zeta"]),
    requested=st.none() | CLASSES,
    text=TEXTS,
    task=st.none() | st.sampled_from(["sort", "chat"]),
    states=STATES,
    loads=LOADS,
    stream=st.booleans(),
    tools=st.booleans(),
)
def test_no_strategy_ever_calls_a_forbidden_pool(
    world: dict[str, Any],
    tenant: str | None,
    requested: Any,
    text: str,
    task: str | None,
    states: dict[str, str],
    loads: dict[str, int],
    stream: bool,
    tools: bool,
) -> None:
    """All strategies over the bare pools, so that none is saved by the wrapper."""

    async def check() -> None:
        made = tree(**world)
        policy = PlacementPolicy(made, PERSONAL)
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        query = Query(
            (Message("user", text),),
            Sampling(max_tokens=40),
            tools=(tool,) if tools else (),
            task=task,
            tenant=tenant,
        )
        placed = (await policy.place(query, requested, CALL)).query
        allowed = allowed_by(world, tenant, requested, text, task)
        assert {name for name in NAMES if placed.may_reach(name)} == allowed
        pools = recording()
        for name, pool in pools.items():
            pool.state, pool.load_ = states[name], PoolLoad(1, loads[name], 0, 8)
        for name, strategy in strategies(pools, made).items():
            found = await outcome(strategy, placed, stream)
            called = {n for n, pool in pools.items() if pool.calls}
            assert called <= allowed, f"{name} called {called - allowed}"
            competing = allowed & set(COMPETES.get(name, NAMES))
            if not competing:
                assert isinstance(found, PlacementForbidden) and found.status == 403, (name, found)
            elif all(states[n] == "up" for n in competing):
                assert found is True, (name, found)
            elif isinstance(found, JethroError):
                assert found.status in (429, 502, 503), (name, found)
            for pool in pools.values():
                pool.calls.clear()

    asyncio.run(check())


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("coin", [0.5, 0.0])
async def test_a_stream_never_asks_an_llm_that_may_not_see_the_text(tmp_path: Any, taught: bool, coin: float) -> None:
    """Neither for an answer nor for an audit (coin 0); its own levels answer once they have learned."""
    pools = recording()
    learner, made = streams(pools, tmp_path, coin)
    made.start()
    try:
        await made.create(StreamCreate(spec()))
        strategy = made.strategy(STREAM)
        if taught:
            for _ in range(3):
                assert await outcome(strategy, Query((Message("user", "a day of joy"),)), False) is True
            async with asyncio.timeout(10):
                while (await made.get("mood", None))["figures"]["labelled"] < 3:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        journal = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
        pools["large"].calls.clear()
        placed = Query((Message("user", "a day of joy"),), privacy="local", reach=frozenset({"small"}))
        found = await outcome(strategy, placed, False)
        assert found is True if taught else isinstance(found, PlacementForbidden)
        await asyncio.sleep(0.2)
        assert not pools["large"].calls
        assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == journal
    finally:
        await made.aclose()
        await learner.aclose()


@pytest.mark.parametrize("by", ["query", "task"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_wrapper_refuses_what_a_strategy_should_not_have_tried(by: str, stream: bool) -> None:
    """A query whose reach was lost is held to the reach of the request that the task works for."""
    pools = recording()
    wrapped = PlacedPool(pools["remote"])
    query = Query((Message("user", "x"),), reach=frozenset({"small"}) if by == "query" else None)
    token = REACH.set(frozenset({"small"}) if by == "task" else None)
    try:
        with pytest.raises(PlacementForbidden, match="m-remote may not see this request"):
            if stream:
                async for _ in wrapped.stream(query, CALL):
                    pass
            else:
                await wrapped.complete(query, CALL)
    finally:
        REACH.reset(token)
    assert not pools["remote"].calls


async def test_a_task_that_is_found_out_later_only_narrows() -> None:
    rules = [{"tasks": ["sort"], "pools": ["small", "remote"]}]
    made = tree({"small": "local", "large": "local", "cloud": "private", "remote": "public"}, rules=rules)
    policy = PlacementPolicy(made)
    query = Query((Message("user", "x"),), privacy="private", reach=frozenset({"small", "large", "cloud"}))
    assert policy.narrowed(query, "sort").reach == frozenset({"small"})
    assert policy.narrowed(query, "chat") is query
    anything = Query((Message("user", "x"),))
    assert policy.narrowed(anything, "sort").reach == frozenset({"small", "remote"})
    assert policy.narrowed(anything, "chat") is anything
