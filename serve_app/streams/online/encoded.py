"""Level `encoder`: softmax regression on the vectors of a frozen sentence encoder, in the place of the paper's BERT.

With replay every update takes a few steps of Böhning's method (Böhning 1992, "Multinomial logistic regression
algorithm", Ann. Inst. Stat. Math. 44) over the whole store: Newton's with the Hessian replaced by its bound
1/2 X'X + ridge, which rises as labels come and needs no step size. Without, it learns the cache alone, five times over,
as the released code does.

After a drift the level may carry over what it knew. Labels are renamed, merged or split more often than they lose all
meaning, and then the old classifier still separates the texts. So its logits become features of the new labels: matrix
scaling (Guo, Pleiss, Sun, Weinberger, ICML 2017, section 4.2), fitted on the few labels since the change and shrunk to
the identity, so that unchanged labels stay. The result is the mean of the prior over the new weights, which more labels
correct.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, softmax
from serve_app.streams.online.base import Arrays, Probabilities, Row, StreamSpec, under
from serve_app.streams.online.replay import Replay, excess
from serve_app.streams.online.settings import has_fix, settings_of

CARRY_RIDGE = 2.0
"""L2 of the map's distance to the identity, against the sum of the losses."""
CARRY_STEPS = 60
"""Of Böhning's method."""
MOST = 1_000
"""Newest labels that the map is fitted on: it has few numbers."""


def carried(before: Floats, rows: Floats, labels: NDArray[np.int64]) -> Floats:
    """Weights [dimensions + 1, labels] from those `before` the change and the `rows` [n, dimensions + 1] since it."""
    rows, labels = rows[-MOST:], labels[-MOST:]
    centred = before - before.mean(axis=1, keepdims=True)
    features = np.column_stack([rows @ centred, np.ones(len(rows))])
    targets = np.eye(before.shape[1])[labels]
    start = np.eye(features.shape[1], before.shape[1])
    mapping = start.copy()
    inverse = np.linalg.inv(features.T @ features / 2 + CARRY_RIDGE * np.eye(len(start)))
    for _ in range(CARRY_STEPS):
        gradient = features.T @ (softmax(features @ mapping) - targets) + CARRY_RIDGE * (mapping - start)
        mapping = mapping - inverse @ gradient
    found: Floats = centred @ mapping[:-1]
    found[-1] += mapping[-1]
    return found


RIDGE = 0.4
"""L2 against the sum of the losses; the bias has BIAS_RIDGE."""
BIAS_RIDGE = 1e-2
TEMPLATE = "a text about {}"
WORDS = 16.0
"""Weight of the label words, an inverse temperature of cosine similarity."""
WORDS_FIT = 1.5
"""Times chance that the words must be right for them to be begun from again after a drift."""
STEPS = 6
"""Of Böhning's method at each update: started from the last optimum it need not go far."""
EPOCHS = 5
RATE = 0.3
"""Of AdaGrad over the cache, without replay."""


class EncodedPredictor:
    """Weights [dimensions + 1, labels], the bias last; the encoder is loaded at the first call."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self._weights = weights

    @classmethod
    def from_arrays(cls, arrays: Arrays, labels: int) -> "EncodedPredictor":
        """The inverse of `arrays`."""
        return cls(np.asarray(arrays["weights"], dtype=np.float64))

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode these texts in batches of similar length; the encoder keeps their vectors."""
        from serve_app.learning.encoder import load_encoder

        load_encoder().embed(texts)

    def features(self, text: str) -> Row:
        """The sentence vector, a 1 after it."""
        return encoded(text)

    def of(self, row: Row) -> Probabilities:
        """Class probabilities."""
        return softmax(row.astype(np.float64) @ self._weights)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The weights."""
        return {"weights": self._weights}


def encoded(text: str) -> Row:
    """[dimensions + 1], unit vector and a constant."""
    from serve_app.learning.encoder import load_encoder

    return np.append(load_encoder().embed([text])[0], np.float32(1.0))


def label_words(labels: tuple[str, ...]) -> NDArray[np.float64]:
    """Weights [dimensions + 1, labels] that know nothing but the words of the labels: texts are near their label.

    Classification by label names alone (Chang et al., AAAI 2008, "Importance of semantic representation: dataless
    classification"), here the mean of the prior over weights, which the first few hundred LLM labels correct.
    """
    from serve_app.learning.encoder import load_encoder

    vectors = load_encoder().embed([TEMPLATE.format(label) for label in labels]).astype(np.float64)
    centred = WORDS * (vectors - vectors.mean(axis=0)).T
    return np.concatenate([centred, np.zeros((1, len(labels)))])


class EncodedStudent:
    """Keeps vectors, not texts: nothing is encoded twice, and a restored learner resumes from the very same numbers."""

    def __init__(self, spec: StreamSpec) -> None:
        from serve_app.learning.encoder import load_encoder

        settings = settings_of(spec)
        self._labels = len(spec.labels)
        self._size = load_encoder().dimensions + 1
        self._cache_size = settings.levels[spec.levels.index("encoder")].cache_size
        self._replays = has_fix(spec, "replay")
        self._balance = settings.balance if has_fix(spec, "balanced") else 1.0
        worded = has_fix(spec, "label_words") and all(any(c.isalpha() for c in label) for label in spec.labels)
        self._words = label_words(spec.labels) if self._replays and worded else None
        self._prior = self._words
        self._carries = self._replays and has_fix(spec, "carry_over")
        self._before: NDArray[np.float64] | None = None
        self._cache = Replay(self._cache_size + 1, self._labels)
        self._store = Replay(settings.replay, self._labels)
        self.updates = 0
        self.evening = 1.0
        self._ridge = np.full(self._size, RIDGE)
        self._ridge[-1] = BIAS_RIDGE
        self._frozen: EncodedPredictor | None = None
        self._forget()

    @property
    def predictor(self) -> EncodedPredictor:
        """See Student."""
        if self._frozen is None:
            self._frozen = EncodedPredictor(self._weights.copy())
        return self._frozen

    def learn(self, row: Row, label: int, age: int) -> None:
        """See Student."""
        self._cache.add(row, label, age)
        if self._replays and (gone := self._store.add(row, label, age)) is not None:
            self._gram -= np.outer(gone, gone).astype(np.float64) / 2
        if len(self._cache) >= self._cache_size:
            self._update()

    def begin_again(self, age: int) -> None:
        """See Student."""
        self._cache.drop_before(age)
        self._store.drop_before(age)
        if self._carries:
            self._before = self._weights
        self._prior = self._words if self._words_fit() else None
        self._forget()
        self.updates = 0
        if len(self._store) and self._replays:
            kept = np.stack(self._store.rows).astype(np.float64)
            waiting = set(self._cache.ages)
            learned = kept[[a not in waiting for a in self._store.ages]]
            self._gram = learned.T @ learned / 2
            self._ascend(5 * STEPS)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """See Student."""
        kept: dict[str, NDArray[np.generic]] = {
            "weights": self._weights,
            "gram": self._gram,
            "squares": self._squares,
            "counts": np.array([self.updates, self._prior is not None], dtype=np.int64),
        }
        if self._before is not None:
            kept["before"] = self._before
        kept |= {f"cache.{k}": v for k, v in self._cache.state().items()}
        return kept | {f"store.{k}": v for k, v in self._store.state().items()}

    def restore(self, arrays: Arrays) -> None:
        """See Student."""
        self.updates, worded = (int(n) for n in arrays["counts"])
        self._prior = self._words if worded else None
        self._forget()
        self._weights = np.array(arrays["weights"], dtype=np.float64)
        self._gram = np.array(arrays["gram"], dtype=np.float64)
        self._squares = np.array(arrays["squares"], dtype=np.float64)
        self._before = np.array(arrays["before"], dtype=np.float64) if "before" in arrays else None
        self._cache.restore(under(arrays, "cache"))
        self._store.restore(under(arrays, "store"))

    def _forget(self) -> None:
        self._weights = np.zeros((self._size, self._labels)) if self._prior is None else self._prior.copy()
        self._gram = np.zeros((self._size, self._size))
        self._squares = np.zeros_like(self._weights)
        self._frozen = None

    def _update(self) -> None:
        rows = np.stack(self._cache.rows).astype(np.float64)
        if self._replays:
            self._gram += rows.T @ rows / 2
            self._ascend(STEPS)
        else:
            self._descend(rows, np.array(self._cache.labels))
        self._cache = Replay(self._cache_size + 1, self._labels)
        self.updates += 1
        self._frozen = None

    def _ascend(self, steps: int) -> None:
        """Böhning's steps over the whole store."""
        rows = np.stack(self._store.rows).astype(np.float64)
        targets = np.eye(self._labels)[self._store.labels]
        inverse = np.linalg.inv(self._gram + np.diag(self._ridge))
        centre = self._centre(rows)
        favour = self.evening * excess(self._store.counts, self._balance)
        for _ in range(steps):
            shrink = self._ridge[:, None] * (self._weights - centre)
            gradient = rows.T @ (softmax(rows @ self._weights + favour) - targets) + shrink
            self._weights = self._weights - inverse @ gradient
        self._frozen = None

    def _words_fit(self) -> bool:
        """Whether labels still mean their words: whether these predict the stored labels better than chance."""
        if self._words is None or not len(self._store):
            return self._words is not None
        predicted = (np.stack(self._store.rows) @ self._words).argmax(axis=1)
        return float(np.mean(predicted == np.array(self._store.labels))) > WORDS_FIT / self._labels

    def _centre(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the weights shrink to: the label words, so that the mean text is as likely to be of any label."""
        if self._before is not None:
            return carried(self._before, rows, np.array(self._store.labels))
        if self._prior is None:
            return np.zeros_like(self._weights)
        centre = self._prior.copy()
        centre[-1] = -rows[:, :-1].mean(axis=0) @ centre[:-1]
        return centre

    def _descend(self, rows: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        """AdaGrad over the cache."""
        targets = np.eye(self._labels)[labels]
        for _ in range(EPOCHS):
            gradient = rows.T @ (softmax(rows @ self._weights) - targets) / len(rows)
            self._squares += gradient**2
            self._weights = self._weights - RATE * gradient / (np.sqrt(self._squares) + 1e-8)
