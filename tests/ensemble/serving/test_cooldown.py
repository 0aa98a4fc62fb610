"""Rankers and fusers that keep failing or are always late cost no further request their whole time."""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import pytest

from serve_app.ensemble.base import Fused
from serve_app.routing.serving.cooldown import FAILURES, Cooldown
from tests.cascade.fakes import CALL, engine_of, pool, run, told
from tests.ensemble.serving.fakes import ensemble, members, plan
from tests.ensemble.serving.test_failures import explode, hang, hanging, nonsense
from tests.ensemble.serving.test_strategy import BOTH


class Counted:
    """Fails in this way, and counts how often it was asked; once `healed`, gives this result."""

    def __init__(self, fails: Callable[..., object], result: object) -> None:
        self.asked, self.healed, self._fails, self._result = 0, False, fails, result

    async def __call__(self, *asked: object) -> object:
        self.asked += 1
        return self._result if self.healed else await self._fails(*asked)  # type: ignore[misc]


@BOTH
@pytest.mark.parametrize("fails", [hang, explode, nonsense])
async def test_a_ranker_that_keeps_failing_is_left_alone_for_a_while(
    fails: Callable[..., object], stream: bool
) -> None:
    now, rank = [0.0], Counted(fails, [0.1, 0.9])
    pools = members(a="four", b="five")
    served = ensemble(pools, plan(("a", "b"), select="ranker", expected={"quality:a": 0.9}), rank=rank, rank_s=0.01)
    served.ranker_cooldown = Cooldown(10.0, lambda: now[0])
    for _ in range(FAILURES):
        decision, said, _ = told(await run(served, stream=stream))
        assert said == "four" and "left alone" not in decision.reason
    for _ in range(3):
        decision, said, _ = told(await run(served, stream=stream))
        assert said == "four" and "the ranker failed many times before and is left alone for a while" in decision.reason
    assert rank.asked == FAILURES
    now[0] = 10.5
    for _ in range(3):
        assert told(await run(served, stream=stream))[1] == "four"
    assert rank.asked == FAILURES + 1, "one trial, and it failed"
    now[0], rank.healed = 21.0, True
    assert [told(await run(served, stream=stream))[1] for _ in range(3)] == ["five"] * 3


@BOTH
async def test_callers_in_a_hurry_do_not_count_against_a_ranker(stream: bool) -> None:
    rank = Counted(hang, [0.1, 0.9])
    served = ensemble(members(a="four", b="five"), plan(("a", "b"), select="ranker"), rank=rank, rank_s=5.0)
    for _ in range(FAILURES + 2):
        hurried = replace(CALL, deadline_s=monotonic() + 0.1)
        assert "in time" in told(await run(served, stream=stream, call=hurried))[0].reason
    assert rank.asked == FAILURES + 2


@BOTH
@pytest.mark.parametrize("by_prompt", [False, True])
async def test_a_fuser_that_keeps_failing_is_left_alone_for_a_while(by_prompt: bool, stream: bool) -> None:
    now, fuser = [0.0], Counted(hang, Fused("fused", (0, 1)))
    pools = members(a="four", b="five", c="four", f=hanging("f"))
    options = {"fuse_pool": "f"} if by_prompt else {"fuse": fuser}
    served = ensemble(pools, plan(("a", "b", "c"), fuse_top=2), **options, fuse_s=0.02)
    served.fuser_cooldown = Cooldown(10.0, lambda: now[0])
    for _ in range(FAILURES):
        assert "left alone" not in told(await run(served, stream=stream))[0].reason
    for _ in range(2):
        decision, said, _ = told(await run(served, stream=stream))
        assert said == "four" and "the fuser failed many times before and is left alone" in decision.reason
    assert (len(engine_of(pools["f"]).queries) if by_prompt else fuser.asked) == FAILURES
    now[0], fuser.healed = 10.5, True
    pools["f"] = served.pools["f"] = pool("fused", "f")  # type: ignore[index]
    assert [told(await run(served, stream=stream))[1] for _ in range(2)] == ["fused"] * 2
