"""The Python API of LLM-Blender: what it returns, for any number of candidates, and clear errors for mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.ensemble.base import Fused
from serve_app.ensemble.blender import Blender
from serve_app.ensemble.ranking.network import NetworkShape
from serve_app.ensemble.ranking.pair_ranker import PairRanker, fit_ranker
from serve_app.ensemble.ranking.training import RankingRecipe
from serve_app.errors import ConfigError
from tests.ensemble.ranking.rankers import LENGTHS, examples
from tests.learning.encoders import save_encoder

INPUTS = ["largest of 4 7 2", "sum of 1 2", "5"]
CANDIDATES = [["4", "7", "2", "7"], ["3"], ["", "5", "five"]]


class Joiner:
    """A fuser that joins its candidates."""

    version = "joiner"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def fuse(self, sources: Any, candidates: Any) -> list[Fused]:
        self.calls.append(len(sources))
        return [Fused(f"{source}: {'+'.join(texts)}") for source, texts in zip(sources, candidates, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("blender")
    shape = NetworkShape(metrics=("a", "b"), lengths=LENGTHS, joint_layers=1)
    recipe = RankingRecipe(epochs=2, learning_rate=5e-3, encoder=str(save_encoder(base / "encoder")))
    fit_ranker(examples(20), shape, recipe, lambda line: None).save(base / "ranker")
    return base / "ranker"


@pytest.fixture
def blender(folder: Path) -> Blender:
    made = Blender()
    made.loadranker(str(folder))
    made.loadfuser(Joiner())
    return made


def test_ranks_and_scores_are_of_each_inputs_own_candidates(blender: Blender) -> None:
    scores = blender.rank(INPUTS, CANDIDATES, return_scores=True)
    found = blender.rank(INPUTS, CANDIDATES, batch_size=1)
    assert [len(r) for r in found] == [4, 1, 3] and found[1].tolist() == [1] and scores[1].tolist() == [0]
    assert isinstance(blender.ranker, PairRanker)
    for texts, source, own, ranked in zip(CANDIDATES, INPUTS, scores, found, strict=True):
        matrix = blender.ranker.matrices([(source, texts)])[0]
        np.testing.assert_allclose(own, (matrix - matrix.T).mean(axis=-1), atol=1e-5)
        descending = sorted(own.tolist(), reverse=True)
        assert ranked.tolist() == [descending.index(score) + 1 for score in own.tolist()]
    assert found[0][1] == found[0][3], "equal texts share a rank"


def test_instructions_come_before_inputs(blender: Blender) -> None:
    joined = blender.rank([f"say {text}" for text in INPUTS], CANDIDATES, return_scores=True)
    apart = blender.rank(INPUTS, CANDIDATES, ["say "] * 3, return_scores=True)
    for one, other in zip(joined, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_compare_in_each_mode(blender: Blender) -> None:
    a, b = ["7", "3", "6"], ["4", "3", "five"]
    there = blender.compare(INPUTS, a, b, return_logits=True, mode="[A,B]")
    back = blender.compare(INPUTS, a, b, return_logits=True, mode="[B,A]")
    both = blender.compare(INPUTS, a, b, return_logits=True)
    assert isinstance(blender.ranker, PairRanker)
    direct = blender.ranker.logits(list(zip(INPUTS, a, b, strict=True)))
    np.testing.assert_allclose(there, direct, atol=1e-6)
    np.testing.assert_allclose(both, there + back, atol=1e-6)
    np.testing.assert_allclose(both, -blender.compare(INPUTS, b, a, return_logits=True), atol=1e-6)
    assert blender.compare(INPUTS, a, b).tolist() == (both > 0).tolist()
    pair = blender.rank(INPUTS, [[x, y] for x, y in zip(a, b, strict=True)], return_scores=True)
    np.testing.assert_allclose(both, [s[0] - s[1] for s in pair], atol=1e-5)
    with pytest.raises(ConfigError, match="mode"):
        blender.compare(INPUTS, a, b, mode="[A]")  # type: ignore[arg-type]


def test_references_by_mode_and_given(blender: Blender) -> None:
    texts = [["5 5 5", "5", "5 5", "7"]]
    for mode, reference in (("longest", "5 5 5"), ("shortest", "5"), ("median_length", "5 5"), ("first", "5 5 5"),
                            ("last", "7")):  # fmt: skip
        found = blender.rank_with_ref(["5"], texts, return_scores=True, ref_mode=mode)  # type: ignore[arg-type]
        given = blender.rank_with_ref(["5"], texts, return_scores=True, ref_candidates=[reference])
        expected = [blender.compare(["5"], [text], [reference], return_logits=True)[0] for text in texts[0]]
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
        np.testing.assert_allclose(given[0], expected, atol=1e-5)
    assert sorted(blender.rank_with_ref(["5"], texts)[0].tolist())[0] == 1
    for bad in ({"ref_mode": "best"}, {"ref_candidates": ["1", "2"]}):
        with pytest.raises(ConfigError):
            blender.rank_with_ref(["5"], texts, **bad)  # type: ignore[arg-type]


def test_best_and_worst_of_n(blender: Blender) -> None:
    scores = blender.rank(INPUTS, CANDIDATES, return_scores=True)
    best = blender.get_best_of_n(INPUTS, CANDIDATES, pairrm_cmp_type="full")
    worst = blender.get_worst_of_n(INPUTS, CANDIDATES, pairrm_cmp_type="full")
    for k, texts in enumerate(CANDIDATES):
        assert best[k] == texts[int(np.argmax(scores[k]))] and worst[k] == texts[int(np.argmin(scores[k]))]
    every = blender.get_best_of_n(INPUTS, CANDIDATES, return_all=True)
    assert [texts[0] for texts in every] == best and [sorted(t) for t in every] == [sorted(t) for t in CANDIDATES]
    assert all(one in texts for one, texts in zip(blender.best_of_n(INPUTS, CANDIDATES), CANDIDATES, strict=True))
    assert blender.get_worst_of_n(["5"], [["6"]]) == ["6"]
    with pytest.raises(ConfigError, match="bubble or full"):
        blender.get_best_of_n(INPUTS, CANDIDATES, pairrm_cmp_type="half")  # type: ignore[arg-type]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("USER", "ASSISTANT") * 9, contents, strict=False)]


def test_conversations_are_compared_by_the_assistants_turns(blender: Blender) -> None:
    a, b = turns("1", "2", "3", "4"), turns("1", "7", "3", "8")
    logits = blender.compare_conversations([a], [b], return_logits=True)
    np.testing.assert_allclose(logits, -blender.compare_conversations([b], [a], return_logits=True), atol=1e-6)
    for other in (turns("1", "2", "5", "4"), turns("1", "2", "3"), [], list(reversed(b))):
        with pytest.raises(ConfigError, match="conversation 0"):
            blender.compare_conversations([a], [other])
    with pytest.raises(ConfigError, match="as many"):
        blender.compare_conversations([a, a], [b])


def test_the_best_are_fused_in_order(blender: Blender) -> None:
    scores = blender.rank(INPUTS, CANDIDATES, return_scores=True)
    fused, ranked = blender.rank_and_fuse(INPUTS, CANDIDATES, top_k=2, batch_size=2)
    for k, texts in enumerate(CANDIDATES):
        best = [texts[i] for i in np.argsort(-scores[k], kind="stable")[:2]]
        assert fused[k] == f"{INPUTS[k]}: {'+'.join(best)}"
    assert ranked[1].tolist() == [1] and blender.fuser.calls == [2, 1]  # type: ignore[attr-defined]
    assert blender.fuse(["x"], [["1", "2"]], ["say "]) == ["say x: 1+2"]
    with pytest.raises(ConfigError, match="top_k"):
        blender.rank_and_fuse(INPUTS, CANDIDATES, top_k=0)


def test_mistakes_are_errors_not_warnings(blender: Blender, tmp_path: Path) -> None:
    fresh = Blender()
    with pytest.raises(ConfigError, match="no ranker is loaded"):
        fresh.rank(INPUTS, CANDIDATES)
    with pytest.raises(ConfigError, match="no fuser is loaded"):
        fresh.fuse(INPUTS, CANDIDATES)
    with pytest.raises(ConfigError, match="no such file"):
        fresh.loadranker(tmp_path)
    with pytest.raises(ConfigError):
        fresh.loadfuser(tmp_path / "nothing")
    for inputs, candidates, instructions, message in (
        (INPUTS, CANDIDATES[:2], None, "as many"),
        (INPUTS, [["1"], [], ["2"]], None, "input 1 has no candidate"),
        (INPUTS, CANDIDATES, ["x"], "instructions"),
    ):
        with pytest.raises(ConfigError, match=message):
            blender.rank(inputs, candidates, instructions)
    with pytest.raises(ConfigError, match="candidates B"):
        blender.compare(INPUTS, ["1"] * 3, ["2"] * 2)
    with pytest.raises(ConfigError, match="batch_size"):
        blender.rank(INPUTS, CANDIDATES, batch_size=0)
    assert blender.rank([], []) == []
