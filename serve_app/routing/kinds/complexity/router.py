"""The complexity router: how hard a query looks by its readable features and the history of similar queries.

Logistic regression or a small network over lengths, digits, operators, keywords, a guess at the task, their
interactions, and the history. It scores in microseconds.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.learning.features import NUMERIC, Reading, number_shapes, read, word_shapes
from serve_app.learning.history import LEVELS, History, common_words
from serve_app.learning.logistic import fit_logistic, folds_of
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Placement, Report, largest_first, silent
from serve_app.routing.kinds.complexity.small_network import SmallNetwork, fit_network
from serve_app.types import Query

_MIN_COUNT = 12
"""Queries in which a named feature must occur to get a weight; fewer show chance more than the feature."""
_MAX_FEATURES = 6_000
_FOLDS = 5
_HISTORY = tuple(f"history:{level}" for level in LEVELS[:-1])
_DENSE = (*NUMERIC, *_HISTORY)
Model = Literal["logistic", "network"]


class ComplexityRouter(LearnedRouter):
    """Strong win rate as a logistic regression of readable features, or a network of one hidden layer.

    Learned: `weights_` (feature to log-odds per unit) and `bias_`, or `network_`; and `history_`. `explain` gives
    the same terms that `score` adds up. `seed` draws the order in which history is made, the folds, and the network.
    """

    name = "complexity"
    placement: Placement = "inline"

    def __init__(self, seed: int = 0, model: Model = "logistic") -> None:
        self.seed = seed
        self.model = model
        self.weights_: dict[str, float] = {}
        self.bias_ = 0.0
        self.history_: History | None = None
        self.network_: SmallNetwork | None = None
        self._sum = _Sum({}, frozenset())
        self._place: Mapping[str, int] = {}

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Learn from queries with the quality of both pools' answers; needs the extra `train` (scikit-learn).

        History features of a query come from the queries before it in a random order, never from its own outcome.
        Raises ConfigError for an empty dataset or an unknown model, DependencyError without scikit-learn.
        """
        _check(self.model)
        if len(dataset) == 0:
            raise ConfigError("complexity: the dataset is empty; collect answers first")
        readings = [read(q) for q in dataset.queries]
        texts = [q.text for q in dataset.queries]
        outcomes = dataset.strong_win_rate()
        vocabulary = common_words(readings)
        history = History.fit(readings, outcomes, vocabulary)
        past = History(vocabulary).past_logits(readings, outcomes, texts, self.seed)
        rows = [active(reading, history) for reading in readings]
        for row, estimates in zip(rows, past, strict=True):
            row.update(zip(_HISTORY, estimates, strict=True))
        folds = folds_of(texts, _FOLDS, self.seed)
        self.weights_, self.bias_, self.network_ = {}, 0.0, None
        if self.model == "network":
            self.network_ = fit_network(rows, _DENSE, _named(rows), outcomes, folds, self.seed)
        else:
            self.weights_, self.bias_ = fit_logistic(rows, _DENSE, _named(rows), outcomes, folds)
        self._learned(history)
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        history = self._need(self.history_, "scoring")
        return np.array([_sigmoid(self._log_odds(q, history)) for q in queries], dtype=np.float64)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions in log-odds, largest in size first; with `bias` they add up to the score's log-odds."""
        weights, features = self.weights_, active(read(query), self._need(self.history_, "explaining"))
        if self.network_ is not None:
            terms = self.network_.contributions(features, self._place)
        else:
            terms = {n: weights[n] * x for n, x in features.items() if n in weights and x}
            terms["bias"] = self.bias_
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json` (weights, vocabulary) and `history.npz`; of a network also `network.npz`."""
        history = self._need(self.history_, "saving")
        body: dict[str, Any] = {
            "seed": self.seed,
            "bias": self.bias_,
            "vocabulary": sorted(history.vocabulary_),
            "weights": dict(sorted(self.weights_.items())),
        }
        if self.network_ is not None:
            body |= {"model": self.model, "features": list(self.network_.names)}
        self._write(directory, body, indent=0, ensure_ascii=False)
        parts = {"history.npz": history} | ({} if self.network_ is None else {"network.npz": self.network_})
        for file, part in parts.items():
            arrays: dict[str, Any] = dict(part.arrays())
            np.savez_compressed(directory / file, **arrays)

    @classmethod
    def _unfitted(cls, body: Mapping[str, Any]) -> Self:
        return cls(int(body["seed"]), _check(body.get("model", "logistic")))

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        self.bias_ = float(body["bias"])
        self.weights_ = {str(name): float(weight) for name, weight in body["weights"].items()}
        if self.model == "network":
            self.network_ = SmallNetwork.from_arrays(body["features"], files.arrays("network.npz"))
        self._learned(History.from_arrays(files.at("history.npz"), body["vocabulary"]))

    def _learned(self, history: History) -> None:
        self.history_ = history
        self._sum = _Sum(self.weights_, history.vocabulary_)
        self._place = self.network_.places() if self.network_ is not None else {}

    def _log_odds(self, query: Query, history: History) -> float:
        reading = read(query)
        if self.network_ is not None:
            return self.network_.log_odds(active(reading, history), self._place)
        return self._sum.add(self.bias_, reading, history.logits(reading))


class _Sum:
    """Adds up the weights of a reading's features in the order of `active`, without making their names.

    The weights are laid out as they are met: numbers by position, words by token, the task's crosses by task.
    """

    def __init__(self, weights: Mapping[str, float], known: Collection[str]) -> None:
        self._dense = tuple(weights.get(name, 0.0) for name in _DENSE)
        self._known = known
        self._words = {w: weights[f"word:{w}"] for w in known if f"word:{w}" in weights}
        self._tasks = {n.removeprefix("task:"): x for n, x in weights.items() if n.startswith("task:")}
        self._crosses: dict[str, dict[str, float]] = {}
        for name, weight in weights.items():
            task, bar, cross = name.partition("|")
            if bar:
                self._crosses.setdefault(task, {})[cross] = weight

    def add(self, bias: float, reading: Reading, past: tuple[float, ...]) -> float:
        """`bias` and the weights of the reading's features; `past` are the logits of its history."""
        total = bias
        for weight, value in zip(self._dense, reading.numeric + past, strict=True):
            total += weight * value
        words, numbers, rare = _split_tokens(reading, self._known)
        of_words = self._words
        for word in words:
            if word in of_words:
                total += of_words[word]
        total += self._tasks.get(reading.task, 0.0)
        of_crosses = self._crosses.get(reading.task)
        if of_crosses is not None:
            for cross in _crosses(reading, numbers, rare):
                if cross in of_crosses:
                    total += of_crosses[cross]
        return total


def active(reading: Reading, history: History) -> dict[str, float]:
    """The features of a reading that are not zero by default: name to value."""
    task = reading.task
    words, numbers, rare = _split_tokens(reading, history.vocabulary_)
    features = dict(zip(NUMERIC, reading.numeric, strict=True))
    features.update(zip(_HISTORY, history.logits(reading), strict=True))
    for word in words:
        features[f"word:{word}"] = 1.0
    features[f"task:{task}"] = 1.0
    for cross in _crosses(reading, numbers, rare):
        features[f"{task}|{cross}"] = 1.0
    return features


def _split_tokens(reading: Reading, known: Collection[str]) -> tuple[Iterable[str], list[str], str]:
    """Known words (each once, in order), numbers, and the longest word that is not known."""
    words: dict[str, None] = {}
    numbers, rare = [], ""
    for token in reading.tokens:
        if token in known:
            words[token] = None
        elif token[0].isdecimal():
            numbers.append(token)
        elif len(token) > len(rare) and token[0].isalpha():
            rare = token
    return words, numbers, rare


def _crosses(reading: Reading, numbers: Sequence[str], rare: str) -> list[str]:
    """Features that have a weight for each task; all distinct."""
    crosses = [f"words:{min(len(reading.tokens), 60) // 3}", f"signs:{reading.operators}", *number_shapes(numbers)]
    if rare:
        crosses += word_shapes(rare, reading.tokens)
    return crosses


def _named(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Indicators that occur often enough to get a weight, the most frequent first if there are too many."""
    seen: Counter[str] = Counter(name for row in rows for name in row)
    often = [name for name, n in seen.most_common(_MAX_FEATURES + len(_DENSE)) if n >= _MIN_COUNT]
    return sorted(set(often) - set(_DENSE))


def _check(model: str) -> Model:
    if model == "logistic":
        return "logistic"
    if model == "network":
        return "network"
    raise ConfigError(f"complexity: model is {model!r}; give logistic or network")


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x >= 0 else 1.0 - 1.0 / (1.0 + exp(x))
