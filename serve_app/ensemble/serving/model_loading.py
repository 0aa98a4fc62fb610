"""Rankers and fusers in service: loaded from their folders, batched over requests, here or in the Scorer.

All requests that wait when the thread of a model becomes free share its forward passes. Rankers and fusers have a
thread each: a fused answer takes as long as many rankings.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol

from serve_app.ensemble.base import Fused, Fuser, Ranker
from serve_app.ensemble.ranking.service import RankingThread
from serve_app.ensemble.serving.served import FuseWith, RankWith
from serve_app.errors import ConfigError, JethroError
from serve_app.learning.batching import BatchingThread

ModelKind = Literal["ranker", "fuser"]
Request = tuple[str, Sequence[str]]
"""A source text, and candidate answers to it."""
_WARM_UP: Final = ("What is 12 + 30?", ("42", "It is 43."))


class RemoteModels(Protocol):
    """The Scorer, in another process: rankers and fusers by their folder and version."""

    async def rank(
        self, folder: str, version: str, source: str, candidates: Sequence[str], models: Sequence[str] = ()
    ) -> Sequence[float]:
        """One score a candidate, higher is better. `models`: who wrote each; () where that is not known."""

    async def fuse(self, folder: str, version: str, source: str, candidates: Sequence[str]) -> Fused:
        """One answer out of the candidates, the best first."""

    def prepare_model(self, kind: ModelKind, folder: str) -> str:
        """Load a model there and return its version; waits, so call it in a thread. Raises ConfigError."""


@dataclass(frozen=True, slots=True, eq=False)
class _FuserWork:
    """The work of one fuser. One object a fuser, so that its requests share batches."""

    fuser: Fuser
    batched: bool = True

    def run(self, items: Sequence[Request]) -> list[Fused]:
        """One answer a request."""
        return self.fuser.fuse([source for source, _ in items], [list(texts) for _, texts in items])


class ModelThreads:
    """The models loaded in this process. `begin` is called once in each thread; `max_batch` requests share passes."""

    def __init__(self, max_batch: int = 16, begin: Callable[[], None] = lambda: None) -> None:
        self._ranking = RankingThread(max_batch, BatchingThread(max_batch, begin, "ranking"))
        self._fusing = BatchingThread(max_batch, begin, "fusing")
        self._rankers: dict[tuple[str, str], Ranker] = {}
        self._fusers: dict[tuple[str, str], _FuserWork] = {}

    def load(self, kind: ModelKind, folder: str) -> str:
        """Load a model, try it once, and return its version; takes seconds. Raises ConfigError if that fails."""
        try:
            if kind == "ranker":
                ranker = _load_ranker(Path(folder))
                ranker.scores(*_WARM_UP)
                self._rankers.setdefault((folder, ranker.version), ranker)
                return ranker.version
            fuser = _load_fuser(Path(folder))
            fuser.fuse([_WARM_UP[0]], [_WARM_UP[1]])
            self._fusers.setdefault((folder, fuser.version), _FuserWork(fuser))
            return fuser.version
        except JethroError:
            raise
        except Exception as e:
            raise ConfigError(f"{folder}: the {kind} does not work ({e!r}); train it again") from e

    async def rank(
        self, folder: str, version: str, source: str, candidates: Sequence[str], models: Sequence[str] = ()
    ) -> list[float]:
        """See RemoteModels. Raises ConfigError for a version that the folder does not have."""
        if (folder, version) not in self._rankers:
            await self._reload("ranker", folder, version)
        ranker = self._rankers[folder, version]
        scores = ranker.informed(await self._ranking.scores(ranker, source, list(candidates)), models)
        return [float(score) for score in scores]

    async def fuse(self, folder: str, version: str, source: str, candidates: Sequence[str]) -> Fused:
        """See RemoteModels. Raises ConfigError for a version that the folder does not have."""
        if (folder, version) not in self._fusers:
            await self._reload("fuser", folder, version)
        fused: Fused = await self._fusing.submit(self._fusers[folder, version], (source, list(candidates)))
        return fused

    async def _reload(self, kind: ModelKind, folder: str, version: str) -> None:
        """For a process that has started anew."""
        found = await asyncio.to_thread(self.load, kind, folder)
        if found != version:
            raise ConfigError(f"{folder}: holds {found}, not {version}; restart the endpoint to serve it")

    def close(self) -> None:
        """End the threads; calls that still wait fail."""
        self._ranking.close()
        self._fusing.close()


class ModelLoader:
    """Rankers and fusers for ensembles: in `remote` if there is one, else in `here`."""

    def __init__(self, here: ModelThreads, remote: RemoteModels | None = None) -> None:
        self._here, self._remote = here, remote

    def ranker(self, folder: Path) -> RankWith:
        """The ranker in a folder, ready to score; takes seconds. Raises ConfigError."""
        path, version = self._prepared("ranker", folder)
        if self._remote is not None:
            return partial(self._remote.rank, path, version)
        return partial(self._here.rank, path, version)

    def fuser(self, folder: Path) -> FuseWith:
        """The fuser in a folder, ready to fuse; takes seconds. Raises ConfigError."""
        path, version = self._prepared("fuser", folder)
        if self._remote is not None:
            return partial(self._remote.fuse, path, version)
        return partial(self._here.fuse, path, version)

    def close(self) -> None:
        """End the threads of this process."""
        self._here.close()

    def _prepared(self, kind: ModelKind, folder: Path) -> tuple[str, str]:
        path = str(folder.absolute())
        if self._remote is None:
            return path, self._here.load(kind, path)
        return path, self._remote.prepare_model(kind, path)


def _load_ranker(folder: Path) -> Ranker:
    from serve_app.ensemble.ranking.pair_ranker import load_ranker  # loads torch

    return load_ranker(folder)


def _load_fuser(folder: Path) -> Fuser:
    from serve_app.ensemble.fusing.gen_fuser import GenFuser  # loads torch

    return GenFuser.load(folder)
