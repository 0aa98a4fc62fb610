"""A call that ends on the other side is no cancellation of who asked."""

import asyncio

import pytest

from serve_app.deployments.learner import LearnerHandle
from serve_app.deployments.scorer import ScorerHandle
from serve_app.errors import replica_reply


async def stopped() -> float:
    raise asyncio.CancelledError  # as a handle's response raises it when its replica was stopped


class StoppedHandle:
    """A DeploymentHandle whose every call ends with its replica."""

    def __getattr__(self, name: str) -> "StoppedHandle":
        return self

    def remote(self, *args: object):
        return stopped()


async def test_an_answer_passes() -> None:
    assert await replica_reply(asyncio.sleep(0, "told")) == "told"


async def test_a_call_that_ends_with_its_replica_is_an_error() -> None:
    scorer, learner = ScorerHandle(StoppedHandle(), 1.0), LearnerHandle(StoppedHandle())  # type: ignore[arg-type]
    for call in (
        scorer.score("r", "1", "x"),
        scorer.explain("r", "1", "x"),
        learner.report(b""),
        learner.published({}),
        learner.delete("s"),
    ):
        with pytest.raises(ConnectionError, match="replica stopped"):
            await call


async def test_who_is_cancelled_while_it_waits_is_cancelled() -> None:
    asking = asyncio.create_task(replica_reply(asyncio.Event().wait()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    assert asking.cancelled()


async def test_a_time_limit_passes() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await replica_reply(asyncio.Event().wait())
