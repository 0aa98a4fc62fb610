"""Rankers that serve: symmetry, shared batches, odd input, saved folders, and training that resumes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.ensemble.base import Comparison
from serve_app.ensemble.ranking import lower_states, training
from serve_app.ensemble.ranking.files import FILE, WEIGHTS, stored_weights
from serve_app.ensemble.ranking.lower_states import passes
from serve_app.ensemble.ranking.network import NetworkShape
from serve_app.ensemble.ranking.pair_ranker import (
    LearnedRanker,
    PairRanker,
    RewardModel,
    fit_ranker,
    load_ranker,
)
from serve_app.ensemble.ranking.training import RankingRecipe
from serve_app.errors import ConfigError, DataError
from serve_app.learning import encoder as encoder_module
from tests.ensemble.ranking.rankers import LENGTHS, examples, network
from tests.learning.encoders import save_encoder

METRICS = ("a", "b")
SHAPES = {
    "pair": NetworkShape(metrics=METRICS, lengths=LENGTHS),
    "staged": NetworkShape(metrics=METRICS, lengths=LENGTHS, joint_layers=2),
    "pointwise": NetworkShape("pointwise", METRICS, LENGTHS),
    "staged pointwise": NetworkShape("pointwise", METRICS, LENGTHS, joint_layers=1),
}
REQUESTS = [
    ("what is the sum of 1 and 2", ["3", "4", "the sum of 1 and 2 is 3", ""]),
    ("", ["x", "7"]),
    ("largest of 5 6", ["6"]),
    ("what is the sum of 1 and 2", ["4", "4", "3"]),
]


def made(folder: Path, form: str) -> LearnedRanker:
    """An untrained ranker with special tokens that differ."""
    net = network(folder, SHAPES[form])
    with torch.no_grad():
        torch.manual_seed(1)
        net.body.get_input_embeddings().weight[list(net.tokens.special)] += torch.randn(3, net.width)
    return (RewardModel if "pointwise" in form else PairRanker)(net.requires_grad_(False), stored_weights(net), {})


@pytest.mark.parametrize("form", SHAPES)
def test_batches_give_the_scores_of_one_pair_at_a_time(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = made(tmp_path, form)
    together = ranker.matrices(REQUESTS)
    monkeypatch.setattr(lower_states, "_TOKENS", 64)
    for (source, texts), matrix in zip(REQUESTS, together, strict=True):
        assert matrix.shape == (len(texts), len(texts))
        for i, left in enumerate(texts):
            for j, right in enumerate(texts):
                alone = 0.0 if i == j else float(ranker.logits([(source, left, right)])[0])
                assert matrix[i, j] == pytest.approx(alone, abs=1e-5)
    assert together[3][0, 1] == 0.0, "equal texts are not compared"
    assert np.abs(together[0]).max() > 1e-4


def test_narrowed_layers_move_scores_little_and_are_saved_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = made(tmp_path, "pair")
    before = ranker.scores(*REQUESTS[0])
    monkeypatch.setattr(encoder_module, "has_bfloat16", lambda: True)
    np.testing.assert_allclose(ranker.narrow().scores(*REQUESTS[0]), before, atol=0.05)
    ranker.save(tmp_path / "saved")
    np.testing.assert_allclose(load_ranker(tmp_path / "saved").scores(*REQUESTS[0]), before, atol=1e-2)


@pytest.mark.parametrize("form", SHAPES)
def test_swapping_sides_negates_a_comparison(tmp_path: Path, form: str) -> None:
    ranker = made(tmp_path, form)
    source, texts = REQUESTS[0]
    there = ranker.compare([Comparison(source, a, b) for a in texts for b in texts])
    back = ranker.compare([Comparison(source, b, a) for a in texts for b in texts])
    np.testing.assert_allclose(there, -back, atol=1e-6)
    matrix = ranker.matrices([REQUESTS[0]])[0]
    np.testing.assert_allclose(there.reshape(4, 4), (matrix - matrix.T) / 2, atol=1e-5)
    assert ranker.compare([]).shape == (0,)


@pytest.mark.parametrize("form", SHAPES)
def test_scores_are_max_logits_and_of_any_number_of_candidates(tmp_path: Path, form: str) -> None:
    ranker = made(tmp_path, form)
    scores = ranker.scores_of(REQUESTS)
    assert [s.shape for s in scores] == [(4,), (2,), (1,), (3,)]
    assert ranker.scores_of([]) == [] and ranker.scores("x", []).shape == (0,)
    matrix = ranker.matrices([REQUESTS[0]])[0]
    if "pointwise" in form:
        assert np.argsort(scores[0]).tolist() == np.argsort((matrix - matrix.T).sum(1)).tolist()
    else:
        np.testing.assert_allclose(scores[0], (matrix - matrix.T).sum(1), atol=1e-5)
        assert scores[2][0] == 0
    assert scores[3][0] == pytest.approx(scores[3][1])
    fifty = [f"{k} {k % 7}" for k in range(50)]
    assert len(set(ranker.scores("largest", fifty).tolist())) > 25


@pytest.mark.parametrize("form", SHAPES)
def test_early_stop_and_bubble_agree_with_the_matrix(tmp_path: Path, form: str) -> None:
    ranker = made(tmp_path, form)
    source, texts = REQUESTS[0]
    matrix = ranker.matrices([REQUESTS[0]])[0]
    assert ranker.best(source, texts)[0] == int(np.argmax((matrix - matrix.T).sum(1)))
    assert ranker.best(source, texts, "max_wins")[1] <= 6
    assert {ranker.bubble(source, texts, seed) for seed in range(5)} <= set(range(4))
    assert np.abs(matrix).max() <= ranker.network.bound or "pointwise" in form


def test_texts_beyond_the_limit_keep_their_beginning(tmp_path: Path) -> None:
    ranker = made(tmp_path, "pair")
    long, other = "5 6 7 8 9 " * 1000, "5 6 7 8 9 " * 1000 + "different"
    assert ranker.logits([("1", long, "4")])[0] == ranker.logits([("1", other, "4")])[0]
    assert ranker.logits([("1", long, "4")])[0] != ranker.logits([("1", "4 " + long, "4")])[0]


def test_passes_hold_every_row_once_and_are_bounded() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500).tolist()
    chosen = list(passes(lengths))
    assert sorted(k for rows in chosen for k in rows) == list(range(500))
    for rows in chosen:
        width = -(-max(lengths[k] for k in rows) // 8) * 8
        assert len(rows) == 1 or len(rows) * width <= 4096
    assert list(passes([])) == []


@pytest.mark.parametrize("form", SHAPES)
def test_a_saved_ranker_scores_as_before_with_another_version_for_other_weights(tmp_path: Path, form: str) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    recipe = RankingRecipe(epochs=1, learning_rate=1e-3, encoder=encoder)
    ranker = fit_ranker(examples(20), SHAPES[form], recipe, lambda line: None)
    ranker.save(tmp_path / "saved")
    loaded = load_ranker(tmp_path / "saved")
    assert loaded.version == ranker.version and loaded.version.startswith(f"{ranker.kind}-")
    for before, after in zip(ranker.scores_of(REQUESTS), loaded.scores_of(REQUESTS), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    again = fit_ranker(examples(20), SHAPES[form], replace(recipe, seed=1), lambda line: None)
    assert again.version != ranker.version
    other = RewardModel if "pointwise" not in form else PairRanker
    with pytest.raises(ConfigError, match="not a"):
        other.load(tmp_path / "saved")
    assert not [p for p in (tmp_path / "saved").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def broken_json(folder: Path) -> None:
    (folder / FILE).write_text("{", "utf-8")


def other_format(folder: Path) -> None:
    body = json.loads((folder / FILE).read_text("utf-8"))
    (folder / FILE).write_text(json.dumps({**body, "format": 99}), "utf-8")


def other_lengths(folder: Path) -> None:
    body = json.loads((folder / FILE).read_text("utf-8"))
    (folder / FILE).write_text(
        json.dumps({**body, "shape": {**body["shape"], "lengths": {"source": 8, "candidate": 9}}}), "utf-8"
    )


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def fewer_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors.pop("head.1.weight")
    save_file(tensors, folder / WEIGHTS)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize("fault", [broken_json, other_format, other_lengths, cut_weights, fewer_tensors, no_tokenizer])
def test_a_broken_folder_is_refused_by_name(tmp_path: Path, fault: Callable[[Path], None]) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    ranker = fit_ranker(examples(4), SHAPES["pair"], RankingRecipe(epochs=1, encoder=encoder), lambda line: None)
    ranker.save(tmp_path / "saved")
    fault(tmp_path / "saved")
    with pytest.raises(ConfigError, match="saved"):
        load_ranker(tmp_path / "saved")
    with pytest.raises(ConfigError, match="no such file"):
        load_ranker(tmp_path / "nothing")


@pytest.mark.parametrize("form", SHAPES)
def test_it_learns_which_candidate_is_better(tmp_path: Path, form: str) -> None:
    shape = replace(SHAPES[form], joint_layers=None if SHAPES[form].joint_layers is None else 1)
    recipe = RankingRecipe(16, 2e-3, batch=4, pairs=6, patience=16, loss="bradley_terry", encoder="scratch-2x64")
    lines: list[str] = []
    ranker = fit_ranker(examples(60), shape, recipe, lines.append)
    errors = [float(line.split("held back ")[1].split(",")[0]) for line in lines if "held back" in line]
    assert min(errors) < 0.3 and ranker.about["held_back_error"] == pytest.approx(min(errors), abs=1e-4)
    ranker.save(tmp_path / "saved")
    fresh = examples(20, seed=9)
    scores = load_ranker(tmp_path / "saved").scores_of([(e.source, e.candidates) for e in fresh])
    right = [int(np.argmax(s) == np.argmax(e.scores[:, 0])) for s, e in zip(scores, fresh, strict=True)]
    assert np.mean(right) > 0.7, "one in four is chance"


class Killed(Exception):
    """Stands for a signal."""


@pytest.mark.parametrize(
    ("form", "layers"), [("pair", None), ("staged", 2), ("staged pointwise", 1)], ids=["pair", "staged", "pointwise"]
)
def test_a_killed_run_resumes_to_the_same_ranker(
    tmp_path: Path, form: str, layers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    recipe = RankingRecipe(epochs=3, learning_rate=1e-3, batch=4, train_layers=layers, encoder=encoder)
    monkeypatch.setattr(training, "_TOKENS", 64)
    plain = training.Descent
    monkeypatch.setattr(training, "Descent", lambda *a, **k: plain(*a, **k, checkpoint_s=0.0))

    def run(checkpoint: Path | None) -> LearnedRanker:
        return fit_ranker(examples(20), SHAPES[form], recipe, lines.append, checkpoint)

    lines: list[str] = []
    whole = run(None)
    steps, own = [0], training.RankingLearner.loss

    def dying(self: training.RankingLearner, batch: training.PairBatch) -> object:
        steps[0] += not batch.held_back
        if steps[0] == 14:
            raise Killed
        return own(self, batch)

    monkeypatch.setattr(training.RankingLearner, "loss", dying)
    with pytest.raises(Killed):
        run(tmp_path / "checkpoint")
    monkeypatch.setattr(training.RankingLearner, "loss", own)
    resumed = run(tmp_path / "checkpoint")
    assert any(line.startswith("resumes after") for line in lines)
    for name, parameter in whole.network.state_dict().items():
        torch.testing.assert_close(parameter, resumed.network.state_dict()[name], rtol=0, atol=0)
    assert not list((tmp_path / "checkpoint").iterdir())


def test_only_the_layers_named_are_trained(tmp_path: Path) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    recipe = RankingRecipe(epochs=1, learning_rate=1e-2, train_layers=1, encoder=encoder)
    ranker = fit_ranker(examples(20), SHAPES["staged"], recipe, lambda line: None)
    start = network(tmp_path, SHAPES["staged"]).state_dict()
    changed = {n for n, p in ranker.network.state_dict().items() if not torch.allclose(p, start[n], atol=1e-3)}
    assert changed and all(n.startswith(("body.encoder.layer.2", "head", "other")) for n in changed)
    with pytest.raises(ConfigError, match="train_layers"):
        fit_ranker(examples(5), SHAPES["pair"], replace(recipe, train_layers=9), print)


def test_data_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    same = ScoredCandidates("1", ("2", "2"), np.array([[1.0, 0.0], [0.0, 1.0]]))
    tied = ScoredCandidates("1", ("2", "3"), np.ones((2, 2)))
    for bad in ([], [same, tied]):
        with pytest.raises(DataError, match="nothing to learn"):
            fit_ranker(bad, SHAPES["pair"], RankingRecipe(encoder=encoder), print)
    with pytest.raises(ConfigError, match="do not fit the metrics"):
        fit_ranker(examples(3), NetworkShape(), RankingRecipe(encoder=encoder), print)


def test_gaps_weigh_pairs_and_ties_weigh_nothing(tmp_path: Path) -> None:
    net = network(tmp_path, NetworkShape(metrics=("a",)))
    rows = [ScoredCandidates("1", ("2", "3", "4"), np.array([[0.0], [0.1], [1.0]]))]
    batch = training.PairBatch((0,), (((0, 1), (1, 2)),))
    losses = {}
    for weighting in ("none", "gap"):
        learner = training.RankingLearner(net, net.tokens, rows, RankingRecipe(weighting=weighting))  # type: ignore[arg-type]
        losses[weighting] = [learner.loss(replace(batch, pairs=((pair,),)))[0].item() for pair in ((0, 1), (1, 2))]
    mean = (2 * 0.1 + 2 * 1.0 + 2 * 0.9) / 9
    assert losses["gap"] == pytest.approx([losses["none"][0] * 0.1 / mean, losses["none"][1] * 0.9 / mean], rel=1e-4)
