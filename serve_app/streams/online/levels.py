"""The levels by kind: each is a Predictor (in every Gateway) and a Student (in the Learner alone); see `base`."""

from collections.abc import Callable, Mapping

import numpy as np

from serve_app.arrays import softmax
from serve_app.streams.online.base import Arrays, Predictor, Probabilities, StreamSpec, Student
from serve_app.streams.online.encoded import EncodedPredictor, EncodedStudent
from serve_app.streams.online.logistic import HashedPredictor, HashedStudent

PREDICTORS: Mapping[str, Callable[[Arrays, int], Predictor]] = {
    "logistic": HashedPredictor.from_arrays,
    "encoder": EncodedPredictor.from_arrays,
}
"""By kind: from `Predictor.arrays()` and the number of labels."""
STUDENTS: Mapping[str, Callable[[StreamSpec], Student]] = {"logistic": HashedStudent, "encoder": EncodedStudent}
"""By kind: an untrained level of a stream."""


def pooled(own: Probabilities, below: Probabilities | None, weight: float) -> Probabilities:
    """own * below ** weight, summing to 1: a logarithmic opinion pool (Genest & Zidek, Stat. Sci. 1986)."""
    if below is None or weight == 0.0:
        return own
    return softmax(np.log(np.maximum(own, 1e-12)) + weight * np.log(np.maximum(below, 1e-12)))
