"""Tiny encoders with random weights and examples whose better candidate can be read off the text."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.ensemble.ranking.files import new_network, stored_weights
from serve_app.ensemble.ranking.network import NetworkShape, RankingNetwork
from serve_app.ensemble.ranking.pair_ranker import PairRanker
from serve_app.ensemble.ranking.sequence import Lengths
from tests.learning.encoders import save_encoder

WORDS = ("sort", "sum", "what", "is", "the", "of", "numbers", "largest")
LENGTHS = Lengths(16, 16)


def network(folder: Path, shape: NetworkShape | None = None, kind: str = "bert", seed: int = 0) -> RankingNetwork:
    """A network over a random encoder of three layers."""
    encoder = folder / f"encoder-{kind}"
    if not encoder.exists():
        save_encoder(encoder, kind)
    return new_network(str(encoder), replace(shape or NetworkShape(), lengths=LENGTHS), seed)


def untrained(folder: Path) -> PairRanker:
    """A ranker that was never trained, to be served."""
    made = network(folder)
    return PairRanker(made.requires_grad_(False), stored_weights(made), {})


def examples(n: int, seed: int = 0, candidates: int = 4) -> list[ScoredCandidates]:
    """Candidates are digits; the better one is larger. Two metrics, of which the second is the first squared."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        digits = rng.permutation(10)[:candidates]
        scores = np.stack([digits / 9, (digits / 9) ** 2], axis=1)
        found.append(ScoredCandidates(f"largest {k} {rng.choice(WORDS)}", tuple(map(str, digits.tolist())), scores))
    return found
