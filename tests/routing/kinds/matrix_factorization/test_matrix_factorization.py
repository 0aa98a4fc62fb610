"""What RouteLLM's mf learns from, and how its score is put together; the rest is in the conformance suite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.routing.kinds.matrix_factorization.router import MatrixFactorizationRouter
from tests.data.samples import sums


def router(**changed: object) -> MatrixFactorizationRouter:
    return MatrixFactorizationRouter(**{"least_steps": 150, "epochs": 10, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sums(120, seed=1)


@pytest.fixture(scope="module")
def fitted(dataset: Dataset) -> MatrixFactorizationRouter:
    return router().fit(dataset)


def test_explanation_adds_up_to_the_score(fitted: MatrixFactorizationRouter, dataset: Dataset) -> None:
    for query in dataset.queries[:10]:
        terms = fitted.explain(query)
        assert set(terms) == {"strong:m-large", "weak:m-small"}
        assert_allclose(fitted.score([query])[0], 1 / (1 + np.exp(-sum(terms.values()))), rtol=1e-5)


def test_params_make_the_same_router(dataset: Dataset) -> None:
    made = router(seed=3, ties="drop", margin=0.1, dimensions=8, least_steps=40)
    again = MatrixFactorizationRouter(**made.params)
    assert again.params == made.params
    assert (
        again.fit(dataset).score(dataset.queries[:5]).tolist() == made.fit(dataset).score(dataset.queries[:5]).tolist()
    )


def test_battles_among_other_models_are_learned_from(dataset: Dataset) -> None:
    n = len(dataset)
    hard = dataset.strong_win_rate() == 1.0
    # the pools' answers are not scored; battles say that `large` beats `small` on easy queries only, `other` loses
    unscored = {name: replace(p, quality=np.full((n, 1), np.nan)) for name, p in dataset.pools.items()}
    battles = Preferences(dataset.queries, ("m-large",) * n, ("m-small",) * n, np.where(hard, 0.0, 1.0))
    more = Preferences(dataset.queries, ("other",) * n, ("m-small",) * n, np.zeros(n))
    found = router(learning_rate=4e-3).fit(replace(dataset, pools=unscored, preferences=battles.plus(more)))
    assert found.models_ == ("m-large", "m-small", "other") and found.pair_ == ("m-small", "m-large")
    scores = found.score(dataset.queries)
    assert scores[~hard].mean() > scores[hard].mean() + 0.3


@pytest.mark.slow
def test_ties_count_as_they_are_told_to(dataset: Dataset) -> None:
    rates = {
        ties: router(ties=ties, learning_rate=4e-3).fit(dataset).score(dataset.queries)
        for ties in ("weak", "half", "drop")
    }
    easy = dataset.strong_win_rate() == 0.0  # both right: a tie
    assert rates["weak"][easy].mean() < 0.3
    assert 0.4 < rates["half"][easy].mean() < 0.7
    assert rates["drop"].min() > 0.8  # only wins of the strong model are left


def test_what_cannot_teach_is_refused_with_the_mend(dataset: Dataset) -> None:
    easy = dataset.take(np.flatnonzero(dataset.strong_win_rate() == 0.0))
    with pytest.raises(ConfigError, match="'m-small'"):
        router(ties="drop").fit(easy)
    with pytest.raises(ConfigError, match=r"'lose'.*drop, half, weak"):
        router(ties="lose")


def test_another_encoder_is_refused(fitted: MatrixFactorizationRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "router.json"
    digest = fitted._encoder.digest if fitted._encoder else ""
    path.write_text(path.read_text("utf-8").replace(digest, "0" * 16), "utf-8")
    with pytest.raises(ConfigError, match=r"'minilm' .*0000000000000000"):
        MatrixFactorizationRouter.load(tmp_path)


def test_vectors_of_another_length_are_refused(fitted: MatrixFactorizationRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with np.load(tmp_path / "factors.npz") as data:
        arrays = {name: data[name] for name in data.files}
    arrays["projection"] = arrays["projection"][:, :100]
    np.savez_compressed(tmp_path / "factors.npz", **arrays)
    with pytest.raises(ConfigError, match="384"):
        MatrixFactorizationRouter.load(tmp_path)
