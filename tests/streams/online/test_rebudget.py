"""A live change of the budget: what holds is the new one, from the change on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from serve_app.streams.online.learner import OnlineCascade


def _unsure(queries, n, seed):
    """Queries whose labels are a guess as often as not, so that there is always something to ask."""
    rng = np.random.default_rng(seed)
    return [(text, label if rng.random() < 0.6 else int(rng.integers(3))) for text, label in queries(n, seed)]


def _under(learner, spec):
    arrays, values = learner.state()
    return OnlineCascade.restored(spec, arrays, json.loads(json.dumps(values)))


def _calls(learner):
    return learner.figures()["llm_calls"]


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [(0.1, 0.4), (0.4, 0.1)])
def test_another_share_is_kept_from_the_change_on_and_nothing_is_owed_or_paid_back(spec, queries, driven, old, new):
    before = spec(horizon=1000, llm_share=old)
    learner = OnlineCascade(before)
    driven(learner, _unsure(queries, 2000, 0))
    after = _under(learner, replace(before, llm_share=new))
    had = _calls(after)
    driven(after, _unsure(queries, 1000, 1))
    assert 0.7 * new < (_calls(after) - had) / 1000 < 1.15 * new


def test_the_same_budget_again_goes_on(spec, queries, driven):
    told = spec(horizon=1000)
    learner = OnlineCascade(told)
    driven(learner, _unsure(queries, 500, 0))
    again = _under(learner, told)
    assert again.state()[1] == learner.state()[1]


def test_a_state_from_before_budgets_were_named_goes_on(spec, queries, driven):
    told = spec(horizon=1000)
    learner = OnlineCascade(told)
    driven(learner, _unsure(queries, 300, 0))
    arrays, values = learner.state()
    del values["budget_of"]
    assert OnlineCascade.restored(told, arrays, values).state()[1]["budget"] == learner.state()[1]["budget"]
