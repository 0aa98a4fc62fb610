"""What causal_llm learns from, and how ratings become a score; the rest is in the conformance suite."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.routing.kinds.causal_llm.rating_model import Ratings
from serve_app.routing.kinds.causal_llm.router import CausalLlmRouter, rated
from tests.data.samples import answers, sums


class Scripted:
    """Stands in for the rating model: gives what it is told."""

    def __init__(self, chances: list[list[float]], parsable: list[bool]) -> None:
        self.found = Ratings(np.array(chances), np.array(parsable))

    def rate(self, questions: list[str]) -> Ratings:
        return Ratings(self.found.chances[: len(questions)], self.found.parsable[: len(questions)])


def test_the_score_is_what_is_left_of_good_ratings_and_1_for_what_cannot_be_read() -> None:
    router = CausalLlmRouter()
    router.model_ = Scripted([[0.1, 0.2, 0.3, 0.3, 0.1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], [True, True, False])  # type: ignore[assignment]
    queries = sums(3, seed=0).queries
    assert_allclose(router.score(queries), [0.6, 0.0, 1.0])
    terms = router.explain(queries[0])
    assert terms == {
        "rating 3": 0.3,
        "rating 4": 0.3,
        "rating 2": 0.2,
        "rating 1": 0.1,
        "rating 5": 0.1,
        "unparsable": 0.0,
    }
    assert list(terms) == ["rating 3", "rating 4", "rating 2", "rating 1", "rating 5", "unparsable"]


def with_rates(rates: list[float]) -> Dataset:
    """Ten samples each; the strong model is right always, the weak one in so many that the strong win rate is this."""
    small = sums(len(rates), seed=0)
    quality = np.array([[0.0] * round(10 * r) + [1.0] * round(10 - 10 * r) for r in rates])
    weak = replace(answers("m-small", [0.0] * len(rates), samples=10), quality=quality)
    return replace(small, pools={"small": weak, "large": answers("m-large", [1.0] * len(rates), samples=10)})


def test_win_rates_become_ratings_by_fifths() -> None:
    _, ratings = rated(with_rates([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
    assert ratings.tolist() == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 1]


def test_preferences_of_the_pair_become_ratings_too() -> None:
    dataset = with_rates([0.0, 1.0, 0.5, 0.5])
    quality = dataset.weak.quality.copy()
    quality[2:] = np.nan  # not scored
    pools = {**dataset.pools, "small": replace(dataset.weak, quality=quality)}
    a = ("m-large", "m-small", "m-large", "m-large")
    b = ("m-small", "m-large", "m-small", "other")
    told = Preferences(dataset.queries, a, b, np.array([1.0, 1.0, 0.5, 1.0]))
    questions, ratings = rated(replace(dataset, pools=pools, preferences=told))
    assert ratings.tolist() == [5, 1, 1, 5, 4]
    assert questions == [q.text for q in (*dataset.queries[:2], *dataset.queries[:3])]


def test_what_cannot_teach_is_refused() -> None:
    dataset = with_rates([0.0, 1.0])
    nothing = {name: replace(p, quality=p.quality * np.nan) for name, p in dataset.pools.items()}
    with pytest.raises(ConfigError, match="quality or a preference"):
        CausalLlmRouter().fit(replace(dataset, pools=nothing))
    with pytest.raises(ConfigError, match=r"config\.json"):
        CausalLlmRouter(model="lab:huge").fit(dataset)
    with pytest.raises(ConfigError, match="epochs"):
        CausalLlmRouter(epochs=0)
    made = CausalLlmRouter(model="x", epochs=2, batch=3, seed=4, max_tokens=99)
    assert CausalLlmRouter(**made.params).params == made.params
