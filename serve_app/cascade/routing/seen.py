"""What may be seen of queries and their answers, as arrays: confidence, agreement, cost, prompt length and vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.agreement import normalised
from serve_app.cascade.recorded import Recorded

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """n queries, K models: raw `confidence` [n, K] (nan where unknown), `agree` [n, K, K] in {0, 1}, `cost_usd` [n, K],
    `characters` of the prompt [n], and sentence `vectors` [n, d], None where no encoder is used.
    """

    confidence: Floats
    agree: Floats
    cost_usd: Floats
    characters: Floats
    vectors: Floats | None = None

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the queries."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return type(self)(self.confidence[rows], self.agree[rows], self.cost_usd[rows], self.characters[rows], vectors)


def seen_in(recorded: Recorded, vectors: Floats | None = None, confidence: Floats | None = None) -> Seen:
    """All that was recorded. `vectors` [n, d] as an encoder gives them for the prompts; `confidence` [n, K] in the
    place of the recorded one. Costs are those of the answers, without further calls made to judge them.
    """
    agree = np.array([agreement([judged.text for judged in row]) for row in recorded.judged])
    characters = np.array([len(prompt) for prompt in recorded.prompts], dtype=np.float64)
    raw = recorded.confidence if confidence is None else confidence
    return Seen(raw, agree, recorded.cost_usd, characters, vectors)


def agreement(texts: Sequence[str]) -> Floats:
    """Which answers say the same once normalised, [K, K] in {0, 1}; an empty one agrees with none but itself."""
    said = [normalised(text) for text in texts]
    found = np.array([[bool(a) and a == b for b in said] for a in said], dtype=np.float64)
    np.fill_diagonal(found, 1.0)
    return found
