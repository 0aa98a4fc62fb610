""""""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.registry import artefacts_dir
from serve_app.types import Message, Query
from tests.data.samples import sums

DATA = sums(200, seed=1)


@pytest.fixture(scope="module")
def fitted() -> ComplexityRouter:
    return ComplexityRouter(model="network").fit(DATA)


@pytest.mark.slow
def test_the_network_tells_hard_queries(fitted: ComplexityRouter) -> None:
    unseen = sums(300, seed=2)
    scores, wins = fitted.score(unseen.queries), unseen.strong_win_rate()
    assert scores[wins == 1].mean() > scores[wins == 0].mean() + 0.6


def test_its_explanation_adds_up(fitted: ComplexityRouter) -> None:
    for query in DATA.queries[:5]:
        score = fitted.score([query])[0]
        assert sum(fitted.explain(query).values()) == pytest.approx(np.log(score / (1 - score)), abs=1e-6)


def test_a_round_trip_keeps_scores(fitted: ComplexityRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    again = ComplexityRouter.load(tmp_path / "a")
    assert again.params == {"seed": 0, "model": "network"}
    assert again.score(DATA.queries).tolist() == fitted.score(DATA.queries).tolist()
    again.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_same_seed_same_network(fitted: ComplexityRouter) -> None:
    again = ComplexityRouter(model="network").fit(DATA)
    assert again.score(DATA.queries).tolist() == fitted.score(DATA.queries).tolist()


def test_a_cut_network_is_refused(fitted: ComplexityRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    whole = (tmp_path / "network.npz").read_bytes()
    (tmp_path / "network.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"network\.npz"):
        ComplexityRouter.load(tmp_path)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'forest'"):
        ComplexityRouter(model="forest").fit(DATA)  # type: ignore[arg-type]
    ComplexityRouter().fit(DATA).save(tmp_path)
    path = tmp_path / "router.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "forest"}))
    with pytest.raises(ConfigError, match="'forest'"):
        ComplexityRouter.load(tmp_path)


def test_a_logistic_router_is_saved_as_before(tmp_path: Path) -> None:
    shipped = artefacts_dir() / "complexity"
    ComplexityRouter.load(shipped).save(tmp_path)
    assert (tmp_path / "router.json").read_bytes() == (shipped / "router.json").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["history.npz", "router.json"]


@pytest.mark.parametrize("model", ["logistic", "network"])
def test_a_follow_up_is_scored_with_its_conversation(model: str) -> None:
    router = ComplexityRouter(model=model).fit(_conversations())  # type: ignore[arg-type]
    follow = Message("user", "and now the same with 345 + 678?")
    before = (Message("user", "what is 12 + 30?"), Message("assistant", "42"))
    alone, after = router.score([Query((follow,)), Query((*before, follow))])
    assert after > alone


def _conversations() -> Dataset:
    """Sums, of which those asked after another are hard for the weak model whatever their size."""
    data = sums(200, seed=3)
    before = (Message("user", "what is 1 + 2?"), Message("assistant", "3"))
    later = np.arange(len(data)) % 2 == 1
    queries = tuple(Query((*before, *q.messages)) if asked else q for q, asked in zip(data.queries, later, strict=True))
    weak = replace(data.weak, quality=np.where(later[:, None], 0.0, data.weak.quality))
    return replace(data, queries=queries, pools={"small": weak, "large": data.strong})
