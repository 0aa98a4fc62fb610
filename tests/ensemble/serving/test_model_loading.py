"""Real rankers and fusers, tiny and random, loaded from folders: in this process, and as a Scorer would."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from serve_app.ensemble.base import Fused
from serve_app.ensemble.ranking.model_prior import ModelPrior
from serve_app.ensemble.ranking.pair_ranker import PairRanker, load_ranker
from serve_app.ensemble.serving.model_loading import ModelKind, ModelLoader, ModelThreads
from serve_app.errors import ConfigError
from tests.cascade.fakes import run, told
from tests.ensemble.fusing.fusers import tiny
from tests.ensemble.ranking.rankers import untrained
from tests.ensemble.serving.fakes import ensemble, members, plan


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("models")
    untrained(at).save(at / "ranker")
    tiny().save(at / "fuser", {})
    return {"ranker": at / "ranker", "fuser": at / "fuser"}


@pytest.fixture
def here() -> Iterator[ModelThreads]:
    threads = ModelThreads()
    yield threads
    threads.close()


async def test_a_ranker_scores_as_it_does_alone(folders: dict[str, Path], here: ModelThreads) -> None:
    rank = ModelLoader(here).ranker(folders["ranker"])
    texts = ["3", "9", "1"]
    alone = load_ranker(folders["ranker"]).scores("largest", texts)
    np.testing.assert_allclose(await rank("largest", texts), alone, rtol=1e-5)


async def test_requests_share_batches(folders: dict[str, Path], here: ModelThreads) -> None:
    rank = ModelLoader(here).ranker(folders["ranker"])
    found = await asyncio.gather(*(rank(f"largest {i}", ["3", "9", str(i)]) for i in range(20)))
    assert len(found) == 20 and here._ranking.batches < 20


async def test_a_fuser_fuses(folders: dict[str, Path], here: ModelThreads) -> None:
    fused = await ModelLoader(here).fuser(folders["fuser"])("q1", ["ab", "cd"])
    assert isinstance(fused, Fused)


async def test_an_ensemble_is_ranked_by_a_real_ranker(folders: dict[str, Path], here: ModelThreads) -> None:
    pools = members(a="3", b="9", c="1")
    rank = ModelLoader(here).ranker(folders["ranker"])
    decision, said, _ = told(await run(ensemble(pools, plan(tuple(pools), select="ranker"), rank=rank, rank_s=20.0)))
    scores = load_ranker(folders["ranker"]).scores("what?", ["3", "9", "1"])
    assert said == ["3", "9", "1"][int(np.argmax(scores))] and "ranked first of 3" in decision.reason


async def test_a_ranker_is_told_which_model_wrote_a_candidate(
    folders: dict[str, Path], here: ModelThreads, tmp_path: Path
) -> None:
    ranker = load_ranker(folders["ranker"])
    told_of = PairRanker(ranker.network, ranker._weights, {}, ModelPrior(0.0, {"m-a": 0.0, "m-b": 9.0, "m-c": 1.0}))
    told_of.save(tmp_path / "told")
    rank, made = ModelLoader(here).ranker(tmp_path / "told"), plan(("a", "b", "c"), select="ranker")
    pools = members(a="3", b="9", c="1")
    decision, said, _ = told(await run(ensemble(pools, made, rank=rank, rank_s=20.0)))
    assert (decision.pool, said) == ("b", "9") and decision.features["b:score"] > decision.features["c:score"]
    pools = members(a="3", b="3!", c="1")
    decision, said, _ = told(await run(ensemble(pools, made, rank=rank, rank_s=20.0)))
    assert said == "1", "near-duplicates count as those of the first that is called"
    unknown = members(a="3", b="9", d="1")
    decision, *_ = told(await run(ensemble(unknown, plan(tuple(unknown), select="ranker"), rank=rank, rank_s=20.0)))
    found = [decision.features[f"{name}:score"] for name in "abd"]
    np.testing.assert_allclose(found, ranker.scores("what?", ["3", "9", "1"]), atol=1e-5)


@pytest.mark.parametrize("kind", ["ranker", "fuser"])
def test_what_cannot_be_loaded_is_said_with_its_folder(tmp_path: Path, here: ModelThreads, kind: ModelKind) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        here.load(kind, str(tmp_path))


@pytest.mark.parametrize("kind", ["ranker", "fuser"])
async def test_another_version_than_asked_for_is_refused(
    folders: dict[str, Path], here: ModelThreads, kind: ModelKind
) -> None:
    """As in a Scorer that was started anew after its folder was changed."""
    call = here.rank if kind == "ranker" else here.fuse
    with pytest.raises(ConfigError, match=r"holds .*, not another-1; restart the endpoint"):
        await call(str(folders[kind]), "another-1", "largest", ["3", "9"])
    version = here.load(kind, str(folders[kind]))
    assert await ModelThreadsRestarted().call(kind, str(folders[kind]), version)


class ModelThreadsRestarted:
    """A process that has loaded nothing yet loads what it is asked for."""

    async def call(self, kind: ModelKind, folder: str, version: str) -> bool:
        threads = ModelThreads()
        try:
            run_model = threads.rank if kind == "ranker" else threads.fuse
            return bool(await run_model(folder, version, "largest", ["3", "9"]))
        finally:
            threads.close()


class Elsewhere:
    """The Scorer's place: another process with the same folders."""

    def __init__(self, threads: ModelThreads) -> None:
        self.threads, self.calls = threads, 0

    async def rank(
        self, folder: str, version: str, source: str, candidates: Sequence[str], models: Sequence[str] = ()
    ) -> Sequence[float]:
        self.calls += 1
        return await self.threads.rank(folder, version, source, candidates, models)

    async def fuse(self, folder: str, version: str, source: str, candidates: Sequence[str]) -> Fused:
        self.calls += 1
        return await self.threads.fuse(folder, version, source, candidates)

    def prepare_model(self, kind: ModelKind, folder: str) -> str:
        return self.threads.load(kind, folder)


async def test_with_a_scorer_nothing_is_loaded_here(folders: dict[str, Path], here: ModelThreads) -> None:
    gateway, scorer = ModelThreads(), Elsewhere(here)
    loader = ModelLoader(gateway, scorer)
    scores = await loader.ranker(folders["ranker"])("largest", ["3", "9"])
    assert len(scores) == 2 and isinstance(await loader.fuser(folders["fuser"])("q1", ["ab", "cd"]), Fused)
    assert scorer.calls == 2 and not gateway._rankers and not gateway._fusers
    loader.close()
