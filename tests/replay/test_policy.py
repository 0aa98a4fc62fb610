"""Where decisions go: what was served under the same threshold, what the score says under another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.replay.policy import RouterPolicy, move
from serve_app.routing.kinds.random import RandomRouter
from serve_app.types import Message, Query
from tests.replay.logs import VERSION, log, traffic


def policy(threshold: float, version: str = VERSION) -> RouterPolicy:
    return RouterPolicy("fake", version, threshold)


odd = st.fixed_dictionaries(
    {
        "pool": st.lists(st.sampled_from(["small", "large"]), min_size=40, max_size=40),
        "score": st.lists(
            st.none() | st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1), min_size=40, max_size=40
        ),
        "privacy": st.lists(st.sampled_from(["local", "private", "any", None]), min_size=40, max_size=40),
    }
)


@given(st.floats(0, 1), odd, st.sampled_from([(), ("local",), ("local", "private")]))
def test_the_threshold_in_force_gives_what_was_served_whatever_else_decided(threshold, changes, closed):
    found = move(log(traffic(40), threshold, **changes), policy(threshold), local_only=closed)
    assert len(found.log) == 40 and not found.moved.any()


@given(st.floats(0, 1), st.floats(0, 1))
def test_another_threshold_sends_each_decision_where_its_score_says(before, after):
    queries = traffic(60)
    found = move(log(queries, before), policy(after))
    assert (found.predicted == (queries.scores >= after)).all()
    assert (found.served == (queries.scores >= before)).all() and not found.forced.any()


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=6), odd)
def test_a_higher_threshold_never_calls_the_large_model_more_often(before, others, changes):
    decisions = log(traffic(40), before, **changes)
    counts = [move(decisions, policy(t)).predicted.sum() for t in sorted(others)]
    assert counts == sorted(counts, reverse=True)


def test_a_decision_that_was_forced_stays_with_its_pool():
    queries = traffic(50)
    found = move(log(queries, 0.5, pool="small"), policy(0.1))
    forced = queries.scores >= 0.5
    assert (found.forced == forced).all()
    assert not found.predicted[forced].any()
    assert (found.predicted[~forced] == (queries.scores[~forced] >= 0.1)).all()


def test_a_threshold_that_load_had_raised_is_not_the_policys():
    queries = traffic(50)
    raised = [0.8 if 0.4 <= s < 0.8 else 0.4 for s in queries.scores]
    pool = ["large" if s >= t else "small" for s, t in zip(queries.scores, raised, strict=True)]
    found = move(log(queries, 0.4, threshold=raised, pool=pool), policy(0.4))
    assert not found.moved.any()
    assert found.forced.sum() == ((queries.scores >= 0.4) & (queries.scores < 0.8)).sum() > 0


def test_a_class_that_the_large_pool_may_not_see_stays_small():
    queries = traffic(50)
    private = ["local" if i % 2 else "any" for i in range(50)]
    found = move(log(queries, 1.0, privacy=private), policy(0.0), local_only=("local",))
    assert found.predicted.tolist() == [not i % 2 for i in range(50)]


def test_a_decision_without_a_score_stays_strong():
    found = move(log(traffic(10), 0.5, score=None, pool="large"), policy(1.0))
    assert found.predicted.all() and not found.forced.any()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed"}, "failed or cancelled"),
        ({"status": "route_only"}, "without an answer"),
        ({"strategy": "jethro-cascade"}, "other strategies"),
        ({"pool": "medium"}, "another pool"),
        ({"policy_version": "fake-00000000@0.5"}, "another version"),
        ({"policy_version": None}, "another version"),
        ({"policy_version": "nonsense"}, "another version"),
    ],
)
def test_what_cannot_be_replayed_is_counted_with_its_reason(changes, reason):
    some = {name: [value if i < 4 else None for i in range(10)] for name, value in changes.items()}
    whole = log(traffic(10), 0.5)
    for name, values in some.items():
        column = getattr(whole, name)
        column[:4] = values[:4]
    found = move(whole, policy(0.5))
    ((why, count),) = found.left_out.items()
    assert reason in why and count == 4 and len(found.log) == 6


def test_another_router_scores_the_prompts_and_says_what_has_none():
    queries, router = traffic(30), RandomRouter(3)
    prompts = [f"question {i % 7}" if i < 21 else None for i in range(30)]
    whole = log(queries, 0.5)
    whole.prompt[:] = prompts
    seen = []
    found = move(whole, policy(0.5, "random-3"), router, progress=lambda done, of: seen.append((done, of)))
    scores = router.score([Query((Message("user", text),)) for text in prompts[:21]])
    assert found.scores == pytest.approx(scores)
    assert (found.predicted == (scores >= 0.5)).all()
    assert seen == [(7, 7)] and list(found.left_out.values()) == [9]
    assert "store.keep_prompts" in next(iter(found.left_out))


def test_decisions_with_the_routers_own_score_need_no_prompt():
    queries, router = traffic(10), RandomRouter(3)
    found = move(log(queries, 0.5), policy(0.2), router)
    assert (found.scores == queries.scores).all() and found.left_out == {}


def test_an_empty_log_is_no_error():
    found = move(log(traffic(3), 0.5).take(np.zeros(3, dtype=bool)), policy(0.5), RandomRouter(0))
    assert len(found.log) == 0 and found.left_out == {}
