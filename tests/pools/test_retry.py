"""Back-off: how long, how often, and when not at all."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import DeadlineExceeded, Overloaded, PoolUnavailable, RequestError, UpstreamError
from serve_app.pools.retry import Backoff, retried


@given(st.integers(0, 9), st.integers(0, 2**32))
def test_the_pause_grows_but_stays_under_its_cap(attempt, seed):
    backoff = Backoff(retries=10, base_s=0.1, cap_s=1.5, rng=random.Random(seed))
    pause_s = backoff.pause_s(attempt, UpstreamError("x"))
    assert pause_s is not None and 0 <= pause_s <= min(1.5, 0.1 * 2**attempt)


@pytest.mark.parametrize("error", [RequestError("x"), DeadlineExceeded("x")])
def test_what_no_retry_can_mend_is_not_tried_again(error):
    assert Backoff(retries=3).pause_s(0, error) is None


def test_retry_after_is_a_lower_bound_within_reason():
    backoff = Backoff(retries=3, longest_retry_after_s=5)
    pause_s = backoff.pause_s(0, Overloaded("x", retry_after_s=3))
    assert pause_s is not None and pause_s >= 3
    assert backoff.pause_s(0, Overloaded("x", retry_after_s=6)) is None


def test_a_wait_that_outlives_the_deadline_is_not_begun():
    error = PoolUnavailable("x", retry_after_s=2)
    assert Backoff(retries=3).pause_s(0, error, left_s=1.0) is None
    assert Backoff(retries=3).pause_s(0, error, left_s=9.0) is not None


async def run(failures: list[Exception], retries: int) -> tuple[str | Exception, list[int], list[float]]:
    tries: list[int] = []
    slept: list[float] = []

    async def attempt(i: int) -> str:
        tries.append(i)
        if failures:
            raise failures.pop(0)
        return "done"

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    try:
        return await retried(attempt, Backoff(retries=retries), sleep=sleep), tries, slept
    except Exception as e:
        return e, tries, slept


async def test_retried_gives_the_first_success():
    result, tries, slept = await run([UpstreamError("1"), Overloaded("2", retry_after_s=1.0)], 2)
    assert (result, tries) == ("done", [0, 1, 2])
    assert slept[1] >= 1.0


async def test_retried_raises_the_last_error():
    result, tries, _ = await run([UpstreamError("1"), UpstreamError("2"), UpstreamError("3")], 1)
    assert (str(result), tries) == ("2", [0, 1])


async def test_retried_does_not_catch_what_is_not_ours():
    result, tries, _ = await run([KeyError("x")], 5)
    assert isinstance(result, KeyError) and tries == [0]
