"""Back-off: how long, how often, and when not at all."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import DeadlineExceeded, Overloaded, RequestError, UpstreamError
from serve_app.pools.upstream import Backoff


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
