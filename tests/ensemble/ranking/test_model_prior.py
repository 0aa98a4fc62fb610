"""What is known of candidates by who wrote them: by hand, on data drawn from the model, and in a trained ranker."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from serve_app.arrays import Floats, sigmoid
from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.ensemble.ranking.aggregation import max_logits
from serve_app.ensemble.ranking.files import FILE
from serve_app.ensemble.ranking.model_prior import FEWEST, ModelPrior, fit_prior, model_strengths
from serve_app.ensemble.ranking.network import NetworkShape
from serve_app.ensemble.ranking.pair_ranker import PairRanker, RewardModel, fit_ranker, load_ranker
from serve_app.ensemble.ranking.training import RankingRecipe
from serve_app.errors import ConfigError
from tests.ensemble.ranking.rankers import LENGTHS, examples, network, untrained

NAMES = ("a", "b", "c")


def example(scores: Sequence[float], models: Sequence[str]) -> ScoredCandidates:
    texts = tuple(f"text {k}" for k in range(len(scores)))
    return ScoredCandidates("what?", texts, np.array(scores)[:, None], models=tuple(models))


def test_strengths_of_two_models_are_the_log_odds_of_their_wins() -> None:
    """Three wins to one, a tie that counts for neither, and half a win each to start with."""
    rows = [example([0.9, 0.1], "ab")] * 3 + [example([0.9, 0.1], "ba"), example([0.5, 0.5], "ab")]
    found = model_strengths(rows)
    assert found["a"] - found["b"] == pytest.approx(log(3.5 / 1.5)) and sum(found.values()) == pytest.approx(0.0)


def test_a_models_samples_are_compared_with_those_of_others_only() -> None:
    found = model_strengths([example([0.9, 0.1, 0.5], "aab")])
    assert found["a"] == pytest.approx(found["b"]), "one win each"


def test_a_model_that_never_lost_has_a_finite_strength() -> None:
    found = model_strengths([example([0.9, 0.5, 0.1], "abc")] * 10)
    assert found["a"] > found["b"] > found["c"] and np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("models", [(), "aa"])
def test_without_two_models_there_are_no_strengths(models: Sequence[str]) -> None:
    assert model_strengths([example([0.9, 0.1], models)]) == {}
    assert model_strengths([example([0.9, 0.1], "ab"), example([0.9, 0.1], ())]) == {}


def drawn(
    n: int, scale: float, strengths: Sequence[float], seed: int = 0
) -> tuple[list[ScoredCandidates], list[Floats]]:
    """Pairs of different models whose winners follow the prior's own chances, and the ranker's values."""
    rng = np.random.default_rng(seed)
    rows, values = [], []
    for _ in range(n):
        i, j = rng.choice(3, 2, replace=False)
        own = rng.normal(size=2)
        chance = float(sigmoid(np.array(scale * (own[0] - own[1]) + strengths[i] - strengths[j])))
        won = float(rng.random() < chance)
        rows.append(example([won, 1 - won], (NAMES[i], NAMES[j])))
        values.append(own)
    return rows, values


def test_the_weights_of_a_drawn_prior_are_found() -> None:
    rows, values = drawn(6000, 0.4, (1.0, 0.0, -1.0))
    found = fit_prior({"a": 0.5, "b": 0.0, "c": -0.5}, rows, values)
    assert found is not None
    assert found.scale == pytest.approx(0.4, abs=0.08)
    assert found.strengths["a"] == pytest.approx(1.0, abs=0.12) and found.strengths["a"] == -found.strengths["c"]


def test_a_ranker_worse_than_chance_counts_for_nothing() -> None:
    rows, values = drawn(2000, -0.5, (1.0, 0.0, -1.0))
    found = fit_prior({"a": 0.5, "b": 0.0, "c": -0.5}, rows, values)
    assert found is not None and found.scale == 0.0 and found.strengths["a"] > 0.3


def test_models_that_say_nothing_more_make_no_prior() -> None:
    rows, values = drawn(2000, 1.0, (-1.0, 0.0, 1.0))
    assert fit_prior({"a": 0.5, "b": 0.0, "c": -0.5}, rows, values) is None, "they point the wrong way"
    assert fit_prior({"a": 0.5, "b": 0.0, "c": -0.5}, rows[: FEWEST - 1], values[: FEWEST - 1]) is None
    assert fit_prior({"x": 0.5, "y": -0.5}, rows, values) is None


@pytest.mark.parametrize("form", ["pair", "pointwise"])
def test_scores_with_the_prior_are_max_logits_of_pairs_with_it(tmp_path: Path, form: str) -> None:
    net = network(tmp_path, NetworkShape(form, lengths=LENGTHS)).requires_grad_(False)  # type: ignore[arg-type]
    prior = ModelPrior(0.5, {"a": 0.3, "b": -0.2, "c": -0.1})
    ranker = (PairRanker if form == "pair" else RewardModel)(net, b"", {}, prior)
    texts, models = ["3", "4", "the sum"], ["c", "a", "b"]
    plain, matrix = ranker.scores("what?", texts), ranker.matrices([("what?", texts)])[0]
    own = np.array([prior.strengths[model] for model in models])
    antisymmetric = 0.5 * (matrix - matrix.T) / 2 + own[:, None] - own[None, :]
    found = ranker.informed(plain, models)
    if form == "pair":
        np.testing.assert_allclose(found, max_logits(antisymmetric), atol=1e-5)
    else:
        np.testing.assert_allclose(found[:, None] - found[None, :], antisymmetric, atol=1e-5)
    for unknown in ((), ["c", "a", "z"]):
        np.testing.assert_array_equal(ranker.informed(plain, unknown), plain)


def test_it_is_saved_with_the_ranker_and_part_of_its_version(tmp_path: Path) -> None:
    plain = untrained(tmp_path)
    ranker = PairRanker(plain.network, plain._weights, {}, ModelPrior(0.5, {"m/α": 0.25, "b": -0.25}))
    assert ranker.version != plain.version
    ranker.save(tmp_path / "saved")
    loaded = load_ranker(tmp_path / "saved")
    assert loaded.prior == ranker.prior and loaded.version == ranker.version
    body = json.loads((tmp_path / "saved" / FILE).read_text("utf-8"))
    for prior in ({**body["prior"], "scale": 0.6}, {"scale": 1.0}, {"scale": "x", "strengths": []}, 7):
        (tmp_path / "saved" / FILE).write_text(json.dumps({**body, "prior": prior}), "utf-8")
        with pytest.raises(ConfigError, match="saved"):
            load_ranker(tmp_path / "saved")


def test_a_folder_of_before_there_was_a_prior_is_read(tmp_path: Path) -> None:
    ranker = untrained(tmp_path)
    ranker.save(tmp_path / "saved")
    body = json.loads((tmp_path / "saved" / FILE).read_text("utf-8"))
    del body["prior"]
    (tmp_path / "saved" / FILE).write_text(json.dumps(body), "utf-8")
    loaded = load_ranker(tmp_path / "saved")
    assert loaded.prior is None and loaded.version == ranker.version


def test_training_fits_it_where_the_writers_are_known() -> None:
    """The text says nothing of the score here: it follows from the model alone."""
    rng, rows = np.random.default_rng(0), []
    for k, one in enumerate(examples(300)):
        scores = np.array([0.3, 0.2, 0.1, 0.0]) + rng.normal(0, 0.05, 4)
        order = rng.permutation(4)
        models = tuple("wxyz"[i] for i in order)
        rows.append(replace(one, source=f"what {k}", scores=scores[order][:, None], models=models))
    shape = NetworkShape(metrics=("a",), lengths=LENGTHS, joint_layers=1)
    recipe = RankingRecipe(1, 1e-4, pairs=2, encoder="scratch-2x64", train_layers=1)
    ranker = fit_ranker(rows, shape, recipe, lambda line: None)
    assert ranker.prior is not None
    found = ranker.prior.strengths
    assert found["w"] > found["x"] > found["y"] > found["z"]
    plain = ranker.scores(rows[0].source, rows[0].candidates)
    best = int(np.argmax(ranker.informed(plain, rows[0].models)))
    assert rows[0].models[best] == "w"
    unknown = fit_ranker([replace(one, models=()) for one in rows], shape, recipe, lambda line: None)
    assert unknown.prior is None
