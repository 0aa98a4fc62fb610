"""What a level is: a Predictor acts (immutable, in every Gateway), a Student learns (in the Learner alone)."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import softmax
from serve_app.streams.online.base import Arrays, StreamSpec

Row = NDArray[np.float32]
Probabilities = NDArray[np.float64]


class Predictor(Protocol):
    """Class probabilities by a linear softmax over features of the text. Immutable and thread-safe."""

    def features(self, text: str) -> Row:
        """What it reads of a text; this is where a level's compute is spent."""

    def of(self, row: Row) -> Probabilities:
        """Class probabilities [labels] of such features."""

    def arrays(self) -> Arrays:
        """Its weights; `PREDICTORS[kind]` is the inverse."""


class Student(Protocol):
    """A level that learns from LLM labels."""

    updates: int
    """Times that its weights were updated since it began, or began again after a drift."""

    @property
    def predictor(self) -> Predictor:
        """What it predicts by now; the same object until it was updated."""

    def learn(self, row: Row, label: int, age: int) -> None:
        """Take the `age`-th LLM label into the cache; a full cache updates the weights."""

    def begin_again(self, age: int) -> None:
        """Forget the weights and all labels before the `age`-th."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays that `restore` needs to go on exactly."""

    def restore(self, arrays: Arrays) -> None:
        """Take up what `state` gave."""


def pooled(own: Probabilities, below: Probabilities | None, weight: float) -> Probabilities:
    """own * below ** weight, summing to 1: a logarithmic opinion pool (Genest & Zidek, Stat. Sci. 1986)."""
    if below is None or weight == 0.0:
        return own
    return softmax(np.log(np.maximum(own, 1e-12)) + weight * np.log(np.maximum(below, 1e-12)))


def predictor(kind: str, arrays: Arrays, labels: int) -> Predictor:
    """The predictor whose `arrays()` these are."""
    from serve_app.streams.online.encoded import EncodedPredictor
    from serve_app.streams.online.logistic import HashedPredictor

    made: dict[str, Callable[[Arrays, int], Predictor]] = {
        "logistic": HashedPredictor.from_arrays,
        "encoder": EncodedPredictor.from_arrays,
    }
    return made[kind](arrays, labels)


def student(kind: str, spec: StreamSpec) -> Student:
    """An untaught level of that kind."""
    from serve_app.streams.online.encoded import EncodedStudent
    from serve_app.streams.online.logistic import HashedStudent

    made: dict[str, Callable[[StreamSpec], Student]] = {"logistic": HashedStudent, "encoder": EncodedStudent}
    return made[kind](spec)
