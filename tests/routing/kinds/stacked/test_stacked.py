"""The stacked router: its explanation adds up, what it weighs, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.routing.kinds.stacked.query_view import QueryView, layer_views, surface
from serve_app.routing.kinds.stacked.router import StackedRouter
from serve_app.types import Message, Query
from tests.data.samples import answers, sums


@pytest.fixture(scope="module")
def router() -> StackedRouter:
    return StackedRouter().fit(sums(100, seed=3))


def test_the_explanation_adds_up_to_the_score(router: StackedRouter) -> None:
    for text in ("what is 3 + 4?", "add 345 and 678", "tell me of the sea"):
        query = Query((Message("user", text),))
        score = float(router.score([query])[0])
        terms = router.explain(query)
        assert sum(terms.values()) == pytest.approx(np.log(score / (1 - score)), abs=1e-6)
        assert {"whole", "end", "like queries", "complexity", "bias", "quantities"} <= set(terms)
        assert [abs(v) for v in terms.values()] == sorted((abs(v) for v in terms.values()), reverse=True)


@pytest.mark.slow
def test_losses_of_the_strong_model_lower_the_score() -> None:
    """Where it never wins, a strong model that loses is worth less than one that ties."""
    texts = [f"what is {a} + {b}?" for a in range(6) for b in range(6)]
    texts += [f"name a town in country {a} of district {b}" for a in range(6) for b in range(6)]
    hard = [f"write number {a} and {b} backwards" for a in range(6) for b in range(6)]
    queries = tuple(Query((Message("user", t),)) for t in texts + hard)
    pools = {
        "small": answers("s", [1.0] * 72 + [0.0] * 36),
        "large": answers("l", [0.0] * 36 + [1.0] * 72),
    }
    dataset = Dataset(queries, pools, ("",) * 108)
    fitted = StackedRouter().fit(dataset)
    loses, ties, wins = (float(fitted.score(queries[s]).mean()) for s in _thirds())
    assert loses < ties < wins


def _thirds() -> list[slice]:
    return [slice(0, 36), slice(36, 72), slice(72, 108)]


def test_equal_texts_count_once() -> None:
    dataset = sums(60, seed=1)
    rows = [*range(60), *[0] * 20]
    twice = Dataset(
        tuple(dataset.queries[i] for i in rows), {n: p.take(rows) for n, p in dataset.pools.items()}, ("",) * 80
    )
    view = StackedRouter().fit(twice).view_
    texts = sorted({q.text for q in dataset.queries}, key=[q.text for q in dataset.queries].index)
    once = QueryView.fit(layer_views("minilm").embed(texts), surface(texts))
    assert view is not None
    np.testing.assert_array_equal(view.mean, once.mean)


def test_parameters_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="loss_weight"):
        StackedRouter(loss_weight=2.0)


def test_unscored_answers_are_refused() -> None:
    dataset = sums(20, seed=1)
    pools = {**dataset.pools, "large": answers("l", [float("nan")] * 20)}
    with pytest.raises(ConfigError, match="scored"):
        StackedRouter().fit(Dataset(dataset.queries, pools, dataset.groups))


def test_a_router_of_another_encoder_or_make_is_refused(router: StackedRouter, tmp_path: Path) -> None:
    router.save(tmp_path)
    path = tmp_path / "router.json"
    body = json.loads(path.read_text("utf-8"))
    assert body["encoder_digest"] == load_encoder().digest
    for change in ({"encoder_digest": "0"}, {"end": 3}, {"stack": {**body["stack"], "weights": {"linear": 1.0}}}):
        path.write_text(json.dumps({**body, **change}), "utf-8")
        with pytest.raises(ConfigError, match=r"router\.json"):
            StackedRouter.load(tmp_path)


def test_one_query_is_enough_not_to_fail() -> None:
    router = StackedRouter().fit(sums(1, seed=1))
    assert 0.0 <= float(router.score(sums(5, seed=2).queries)[0]) <= 1.0
