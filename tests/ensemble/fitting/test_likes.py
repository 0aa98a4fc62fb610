"""Accuracy that depends on the words of a query, and strong calls where they are expected to gain."""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.ensemble.artefact import agreement_of
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.likes import like_queries
from serve_app.ensemble.fitting.picking import VOTE
from serve_app.ensemble.fitting.plan import EnsembleFit
from serve_app.ensemble.fitting.search import EnsembleOptions, PlanSearch, held_out
from serve_app.ensemble.fitting.shapes import replayed
from serve_app.learning.logistic import folds_of
from serve_app.types import Message, Query
from tests.ensemble.fitting.answered import answered, drawn

COST = {"small": 1e-5, "large": 1e-3}


def two_topics(seed: int, n: int = 600) -> tuple[Dataset, np.ndarray]:
    """The strong model is better at torts than at poems by far; the small one is the same at both."""
    rng = np.random.default_rng(seed)
    torts = rng.random(n) < 0.5
    right = {
        "small": (rng.random(n) < 0.5)[:, None],
        "large": (rng.random(n) < np.where(torts, 0.97, 0.5))[:, None],
    }
    words = [("tort", "liable") if tort else ("poem", "stanza") for tort in torts]
    texts = [f"{words[i][rng.integers(2)]} number {rng.integers(10_000):05d}" for i in range(n)]
    data = answered(right, COST)
    return replace(data, queries=tuple(Query((Message("user", text),)) for text in texts)), torts


def easy_topic(seed: int, n: int) -> Dataset:
    """The cheap members are better at torts than at poems; the strong one is good at both."""
    rng = np.random.default_rng(seed)
    torts = rng.random(n) < 0.5
    accuracies = {"a": (0.9, 0.5), "b": (0.9, 0.5), "large": (0.97, 0.95)}
    right = {name: (rng.random(n) < np.where(torts, at, less))[:, None] for name, (at, less) in accuracies.items()}
    texts = [f"{'tort' if tort else 'poem'} number {rng.integers(10_000):05d}" for tort in torts]
    data = answered(right, {"a": 1e-5, "b": 1e-5, "large": 1e-3})
    return replace(data, queries=tuple(Query((Message("user", text),)) for text in texts))


def test_words_say_on_which_queries_a_member_is_right() -> None:
    data, torts = two_topics(0)
    answers = Answers.of(data)
    folds = folds_of([query.text for query in data.queries], 5, 0)
    likes, offsets = like_queries(answers, folds)
    assert set(likes) == {"large"}, "the small one does not depend on the query"
    found = likes["large"]
    assert min(found.words["tort"], found.words["liable"]) > 0.3 > 0 > max(found.words["poem"], found.words["stanza"])
    assert (offsets["large"][torts] > 0).mean() > 0.95 and (offsets["large"][~torts] < 0).mean() > 0.95


def test_nothing_is_learned_from_members_that_are_right_alike() -> None:
    for seed in range(3):
        data = answered(drawn(300, {"a": 0.75, "b": 0.95}, seed), {"a": 1e-5, "b": 1e-3})
        same = {"c": np.ones((300, 1), dtype=np.bool_)}
        constant = answered(same, {"c": 1e-5}).pools["c"]
        data = replace(data, pools={**data.pools, "c": replace(constant, quality=np.full((300, 1), 0.95))})
        folds = folds_of([query.text for query in data.queries], 5, 0)
        assert "c" not in like_queries(Answers.of(data), folds)[0], "a constant is not surely better than itself"


def test_the_strong_member_is_called_where_it_gains() -> None:
    (train, _), (test, torts) = two_topics(0), two_topics(1)
    fitting = EnsembleFit(train, EnsembleOptions())
    fitted = fitting.plan(Goal(strong_share=0.5))
    stage = fitted.plan.agreement["stages"][0]  # type: ignore[index]
    assert stage["later"]["liked"]["large"] > 0.5
    outcome, _ = replayed(fitted.plan, Answers.of(test, form=fitted.plan.normalizer), "large")
    called = outcome.strong
    assert torts[called].mean() > 0.9 and 0.35 < called.mean() < 0.56
    assert outcome.quality.mean() > 0.68, "at random it would be 0.62"
    alone = EnsembleFit(train, EnsembleOptions(like_queries=False))
    assert fitting.votes.judged([MemberCalls("small")]).p.std() < 0.05
    assert alone.votes.expectation(np.zeros(600), train.pools["large"].quality[:, 0], ())[0].liked == {}
    assert fitted.plan.expected["quality"] == pytest.approx(outcome.quality.mean(), abs=0.06)


@pytest.mark.parametrize(
    ("data", "share", "stops"), [(two_topics(0)[0], 0.5, "gain"), (easy_topic(6, 250), 0.3, "probability")]
)
def test_of_two_rules_of_stopping_the_one_that_is_better_held_out_is_kept(
    data: Dataset, share: float, stops: str
) -> None:
    fitting = EnsembleFit(data)
    fitted = fitting.plan(Goal(strong_share=share))
    model = agreement_of(fitted.plan)
    assert fitting.votes.likes and model is not None and model.stops == stops
    chosen = next(one for one in fitted.data["tried"] if one.get("chosen"))
    assert chosen["stops"] == stops
    search = PlanSearch(fitting.space, Goal(strong_share=share))
    rounds = tuple(each.calls for each in fitted.plan.rounds)
    reached = {}
    for shape in fitting.space.shapes[rounds, VOTE]:
        outcome = held_out(shape, fitting.votes.folds, search.goal, search.least)
        assert outcome is not None
        reached[shape.stops] = outcome.quality.mean()
    assert set(reached) == {"gain", "probability"} and max(reached, key=lambda rule: reached[rule]) == stops
    assert fitted.plan.expected["quality"] == pytest.approx(reached[stops])
