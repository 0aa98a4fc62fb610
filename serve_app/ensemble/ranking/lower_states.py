"""What a network's lower layers give for [source; candidate]: in bounded passes, and kept where the layers are frozen.

Kept states are of one encoder, one pair of lengths and one split of its layers: rankers that differ in the layers
above (the folds of a comparison, a pair ranker and a reward model) may share them.
"""

from collections.abc import Iterator, Sequence

import torch

from serve_app.ensemble.ranking.network import MULTIPLE, Lower, Parts, RankingNetwork

Key = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a source, and of a candidate, or () for the source itself."""
_TOKENS = 4096
"""Tokens of one pass, padding included: more of them no longer fit the caches and take longer each."""
BYTES = 3 * 2**30
"""Size of all states that are kept."""


class LowerStates:
    """States by token ids, in bfloat16, up to BYTES; beyond that they are computed each time."""

    def __init__(self) -> None:
        self._kept: dict[Key, torch.Tensor] = {}
        self._bytes = 0

    def of(self, network: RankingNetwork, parts: Parts) -> Lower:
        """States of every source and candidate, without a gradient."""
        sources: list[Key] = [(tuple(ids), ()) for ids in parts.sources]
        keys = [(sources[s][0], tuple(ids)) for s, ids in zip(parts.source_of, parts.candidates, strict=True)]
        fresh: dict[Key, torch.Tensor] = {}
        known = self._kept.keys()
        missing = [k for k, key in enumerate(keys) if not {key, (key[0], ())} <= known]
        if missing:
            with torch.no_grad():
                found = lower_of(network, subset(parts, missing))
            fresh = {keys[k]: states.bfloat16() for k, states in zip(missing, found.candidates, strict=True)}
            fresh |= {(key[0], ()): states.bfloat16() for key, states in zip(sources, found.sources, strict=True)}
            for key, states in fresh.items():
                self._keep(key, states)

        def state(key: Key) -> torch.Tensor:
            return (fresh[key] if key in fresh else self._kept[key]).float()

        return Lower([state(key) for key in sources], [state(key) for key in keys], parts.source_of)

    def _keep(self, key: Key, states: torch.Tensor) -> None:
        size = states.numel() * states.element_size()
        if key not in self._kept and self._bytes + size <= BYTES:
            self._kept[key] = states.clone()
            self._bytes += size


def lower_of(network: RankingNetwork, parts: Parts) -> Lower:
    """What the lower layers give for all sources and candidates, in passes bounded in tokens.

    Sources are taken in groups, whose keys and values are held while their candidates are read.
    """
    sources, candidates = dict[int, torch.Tensor](), [torch.zeros(0)] * len(parts.candidates)
    for group in passes([len(ids) for ids in parts.sources]):
        number = {source: k for k, source in enumerate(group)}
        own = [k for k, source in enumerate(parts.source_of) if source in number]
        of = [number[parts.source_of[k]] for k in own]
        some = Parts([parts.sources[s] for s in group], [parts.candidates[k] for k in own], of)
        lower = network.lower(some, passes([len(ids) for ids in some.candidates]))
        sources |= dict(zip(group, lower.sources, strict=True))
        for k, states in zip(own, lower.candidates, strict=True):
            candidates[k] = states
    return Lower([sources[s] for s in range(len(parts.sources))], candidates, parts.source_of)


def row_lengths(parts: Parts) -> list[int]:
    """Tokens of each [source; candidate]."""
    return [len(parts.sources[k]) + len(ids) for k, ids in zip(parts.source_of, parts.candidates, strict=True)]


def subset(parts: Parts, chosen: Sequence[int]) -> Parts:
    """Some of the candidates."""
    return Parts(parts.sources, [parts.candidates[k] for k in chosen], [parts.source_of[k] for k in chosen])


def passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions of the rows of each pass: the longest first, bounded in tokens with their padding."""
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    start = 0
    while start < len(order):
        width = -(-lengths[order[start]] // MULTIPLE) * MULTIPLE
        rows = max(1, _TOKENS // width)
        yield order[start : start + rows]
        start += rows
