"""The methods, and their replays one after another, each kept as it ends."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.online_cascade.episodes import ByMargin, Replayed, Taught, cascade, online
from benchmarks.online_cascade.figures import measured, over_seeds
from benchmarks.online_cascade.plan import digest
from benchmarks.online_cascade.stream import Recorded
from serve_app.streams.online.base import StreamSpec
from serve_app.streams.online.settings import settings_of

CASCADE = "online cascade"
BALANCED = "cascade, objective balanced"
NEVER = "cascade, never balanced"
LEARNED = "cascade, deferral learned"
MARGIN = "margin sampling"
MARGIN_BALANCED = "margin sampling, balanced students"
MARGINS = (MARGIN, MARGIN_BALANCED)
SOURCES = digest(Path(__file__).parent)

Method = Callable[[Recorded, StreamSpec, int], Replayed]


def _cascade(**changed: Any) -> Method:
    return lambda stream, spec, _: cascade(stream, replace(spec, **changed))


def _margin(balanced: bool) -> Method:
    def replayed(stream: Recorded, spec: StreamSpec, calls: int) -> Replayed:
        settings = settings_of(spec)
        asks = ByMargin(calls, len(stream), int(settings.front_load * calls), settings.price_step)
        return online(stream, Taught(replace(spec, fixes={"balanced": balanced})), asks)

    return replayed


METHODS: Mapping[str, Method] = {
    CASCADE: _cascade(),
    BALANCED: _cascade(objective="balanced"),
    NEVER: _cascade(params={"balance": 1.0}),
    LEARNED: _cascade(fixes={"margin": False}),
    MARGIN: _margin(balanced=False),
    MARGIN_BALANCED: _margin(balanced=True),
}
"""The cascade as it ships comes first. Margin sampling has its two students, pooled, its front-load and its budget
control; students learn the LLM's labels as they are, or always balanced."""


@dataclass(frozen=True, slots=True)
class Replays:
    """Makes replays, or finds them in the folder `keep`; `expert` is part of their names there."""

    keep: Path
    expert: str
    seeds: Sequence[int]
    tell: Callable[[str], None]

    def runs(self, method: str, streams: Sequence[Recorded], share: float) -> list[dict[str, Any]]:
        """One replay per seed, JSON-ready; margin sampling makes as many calls as the cascade of the seed."""
        return [self._run(method, stream, share, seed) for stream, seed in zip(streams, self.seeds, strict=True)]

    def llm(self, streams: Sequence[Recorded]) -> dict[str, float]:
        """Accuracy of the LLM alone."""
        return over_seeds([float((stream.expert == stream.gold).mean()) for stream in streams])

    def _run(self, method: str, stream: Recorded, share: float, seed: int) -> dict[str, Any]:
        spec = StreamSpec("replay", stream.labels, "", llm_share=share, seed=seed, horizon=len(stream))
        inputs = repr((SOURCES, method, spec, self.expert, stream.texts, stream.expert.tolist()))
        name = hashlib.blake2b(inputs.encode("utf-8", "replace"), digest_size=12).hexdigest()
        path = self.keep / f"{name}.json"
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return kept
        calls = self._run(CASCADE, stream, share, seed)["calls"] if method in MARGINS else 0
        found = measured(stream, METHODS[method](stream, spec, calls))
        path.write_text(json.dumps(found), "utf-8")
        self.tell(f"{method}, {share:.0%} of {len(stream):,}, seed {seed}: {found['accuracy']:.4f}")
        return found
