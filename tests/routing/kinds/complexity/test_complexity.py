""""""

from math import exp
from random import Random

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.registry import load_router
from serve_app.types import Message, Query
from tests.data.samples import sums

ODD = (*"7½²٣É𝐀İ+×()?._s", "\ud800", "```", "mississippi", "hello")


@pytest.fixture(scope="module")
def shipped() -> ComplexityRouter:
    router = load_router("complexity").router
    assert isinstance(router, ComplexityRouter)
    return router


def test_the_score_is_what_the_explanation_adds_up_to(shipped: ComplexityRouter) -> None:
    assert shipped.history_ is not None
    rng, words = Random(5), (*ODD, *sorted(shipped.history_.vocabulary_))
    for _ in range(300):
        text = rng.choice((" ", "")).join(rng.choices(words, k=rng.randrange(30)))
        query = Query((Message("user", text),))
        expected = 1 / (1 + exp(-sum(shipped.explain(query).values())))
        assert shipped.score((query,))[0] == pytest.approx(expected, rel=1e-9)


def test_fitting_again_forgets_the_first_weights() -> None:
    first, second = sums(300, seed=1), sums(300, seed=2)
    again = ComplexityRouter().fit(first).fit(second)
    assert np.array_equal(_scores(again, first), _scores(ComplexityRouter().fit(second), first))


def _scores(router: ComplexityRouter, dataset: Dataset) -> np.ndarray:
    return router.score(dataset.queries[:50])
