"""Agreement among several answers of one model: the share of further samples that say the same as the answer."""

import unicodedata
from dataclasses import dataclass
from math import nan
from typing import ClassVar, Final

from serve_app.cascade.base import Judged, Needs
from serve_app.errors import ConfigError

_EDGES: Final = " \t\r\n.,;:!?\"'`*"
"""What stands around an answer and says nothing; a sign or a bracket would say something."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of `samples` further answers that equal the answer once normalised (answer consistency; Yue et al. 2024).

    Of an unfinished answer: the share of samples that begin with it.
    """

    samples: int = 4
    name: ClassVar[str] = "agreement"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"agreement: samples is {self.samples}; give at least 1")

    @property
    def needs(self) -> Needs:
        """Further samples, at a temperature above 0."""
        return Needs(samples=self.samples)

    def value(self, judged: Judged) -> float:
        """In [0, 1]; nan without samples, or before the answer says anything."""
        said = normalised(judged.text)
        if not judged.samples or (not said and not judged.finished):
            return nan
        others = [normalised(sample) for sample in judged.samples]
        same = [other == said if judged.finished else other.startswith(said) for other in others]
        return sum(same) / len(same)


def normalised(text: str) -> str:
    """Composed, lower case, single spaces, without punctuation at the ends ("-5" and "5" stay different)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)
