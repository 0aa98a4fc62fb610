"""Runs the replays one after another and keeps each: the same command resumes after a kill."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.online_cascade.episodes import Replayed
from benchmarks.online_cascade.figures import measured
from benchmarks.online_cascade.methods import CASCADE, METHODS, NO_BASELINES, PLAIN, PLAIN_MU, Job, released
from benchmarks.online_cascade.stream import Recorded
from serve_app.streams import online
from serve_app.streams.online.base import StreamSpec


def digest(*more: Path) -> str:
    """Digest of the code that replays are made by: the learner's, this folder's and that of the folders `more`."""
    folders = (Path(online.__file__).parent, Path(__file__).parent, *more)
    files = sorted((path for folder in folders for path in folder.glob("*.py")), key=lambda path: path.parts[-2:])
    return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=12).hexdigest()


SOURCES = digest()


@dataclass(frozen=True, slots=True)
class Bench:
    """A stream and its other half, what is common to all replays, and where they are kept."""

    stream: Recorded
    other: Recorded
    spec: StreamSpec
    seeds: Sequence[int]
    keep: Path
    tell: Callable[[str], None]

    def runs(
        self, name: str, replay: Callable[[Job], Replayed], share: float, shift: bool = False
    ) -> list[dict[str, Any]]:
        """One replay per seed, of that share of LLM calls; `shift`: labels swapped half-way."""
        return [self._run(name, replay, share, seed, shift) for seed in self.seeds]

    def matched(
        self, name: str, replay: Callable[[Job], Replayed], theirs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """One replay per seed, given as many LLM calls as another method's run of that seed made."""
        shares = [run["share"] for run in theirs]
        return [self._run(name, replay, share, seed, False) for seed, share in zip(self.seeds, shares, strict=True)]

    def released(self, shift: bool = False) -> list[list[dict[str, Any]]]:
        """For each seed the released algorithm's replays over its prices."""
        swept = [self.runs(f"{PLAIN}, mu {mu:g}", released(mu), 1.0, shift) for mu in PLAIN_MU]
        return [list(runs) for runs in zip(*swept, strict=True)]

    def _run(
        self, name: str, replay: Callable[[Job], Replayed], share: float, seed: int, shift: bool
    ) -> dict[str, Any]:
        spec = replace(self.spec, llm_share=share, seed=seed, horizon=len(self.stream))
        path = self.keep / f"{self._key(name, spec, shift)}.json"
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return kept
        stream = self.stream.shuffled(seed)
        if shift:
            stream = stream.swapped(len(stream) // 2)
        calls = round(share * len(stream))
        if name in METHODS and name not in NO_BASELINES:
            calls = self._run(CASCADE, METHODS[CASCADE], share, seed, shift)["calls"]
        found = measured(stream, replay(Job(stream, self.other.shuffled(seed), spec, calls)))
        self.keep.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), "utf-8")
        shifted = ", labels swapped" if shift else ""
        self.tell(f"{name}, {share:.0%}, seed {seed}{shifted}: {found['accuracy']:.4f} at {found['share']:.1%}")
        return found

    def _key(self, name: str, spec: StreamSpec, shift: bool) -> str:
        """Whatever changes a replay changes its file."""
        stream = (self.stream.texts[:50], len(self.stream), self.stream.expert.tolist())
        inputs = repr((SOURCES, name, spec, shift, *stream))
        return hashlib.blake2b(inputs.encode("utf-8", "replace"), digest_size=12).hexdigest()


def nearest(swept: Sequence[Sequence[dict[str, Any]]], share: float) -> list[dict[str, Any]]:
    """Of each seed the replay whose share of LLM calls is nearest."""
    return [min(runs, key=lambda run: abs(run["share"] - share)) for runs in swept]
