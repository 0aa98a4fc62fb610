"""Whether a text is one of the lab's tasks: decided in microseconds from its wording.

A logistic regression on words, pairs of neighboring words, and counts. Its vocabulary is closed: the words that the
tasks are written with; any other word is one of "other words", so that all English beyond the tasks looks alike to it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, Self

from serve_app.errors import needs_extra
from serve_app.files import write_whole
from serve_app.lab.sample import split_of
from serve_app.lab.tasks import CELLS, TASKS

_FORMAT: Final = 1
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\s\w]|_")
_ROMAN: Final = re.compile(r"m{0,3}(?:c[md]|d?c{0,3})(?:x[cl]|l?x{0,3})(?:i[xv]|v?i{0,3})")
_HEAD_CHARS: Final = 400
"""Twice the longest query of a task: a longer text is none, whatever follows."""
_MOST_TOKENS: Final = 120
_MOST_OTHER, _MOST_NUMBERS, _MOST_LENGTH = 8, 12, 20
_LONGEST_WORD: Final = 12
"""Letters of the longest word that the tasks reverse or count in."""
_WORD_IN: Final = 12
"""Queries of 20,000 in which a word must occur to belong to the tasks: arguments, such as a word to reverse, do not."""
_FEATURE_IN: Final = 6
_SMALLEST_WEIGHT: Final = 0.02
_EVERYDAY_SHARE: Final = 0.8
"""Of the texts that are no task, those of everyday English; the others are near a task or beyond its sizes."""
FALSE_ALARMS: Final = 0.003
"""Share of the tasks' queries, not trained on, that the threshold lets pass for other texts."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Learned by `fit_scope`. A text of log-odds below `threshold` is none of the tasks."""

    vocabulary: frozenset[str]
    weights: Mapping[str, float]
    bias: float
    threshold: float

    def log_odds(self, text: str) -> float:
        """Of being a query of one of the tasks."""
        if len(text) > _HEAD_CHARS:
            text = text[:_HEAD_CHARS]
        weights = self.weights
        return self.bias + sum(weights[name] for name in _features(text, self.vocabulary) if name in weights)

    def knows(self, text: str) -> bool:
        """Whether the text is a query of one of the tasks, as far as its wording shows."""
        return bool(text.strip()) and self.log_odds(text) >= self.threshold

    def save(self, path: Path) -> None:
        """One JSON file."""
        weights = {name: round(weight, 3) for name, weight in sorted(self.weights.items())}
        body: dict[str, Any] = {"format": _FORMAT, "bias": round(self.bias, 3), "threshold": round(self.threshold, 3)}
        body |= {"vocabulary": sorted(self.vocabulary), "weights": weights}
        write_whole(path, (json.dumps(body, indent=0) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """What was saved. Raises OSError, KeyError or ValueError for a broken file."""
        body = json.loads(path.read_text("utf-8"))
        if body["format"] != _FORMAT:
            raise ValueError(
                f"{path}: format is {body['format']}, this version reads {_FORMAT}; run `jethro lab scope`"
            )
        return cls(frozenset(body["vocabulary"]), body["weights"], body["bias"], body["threshold"])


def scope_file() -> Path:
    """Where the one that ships is."""
    return Path(__file__).resolve().parent / "scope.json"


@cache
def shipped_scope() -> Scope:
    """The one that ships, read once."""
    return Scope.load(scope_file())


def _features(text: str, vocabulary: frozenset[str]) -> set[str]:
    """Names of what a text shows."""
    tokens = _TOKEN.findall(text.lower())[:_MOST_TOKENS]
    forms = [_form(token, vocabulary) for token in tokens]
    names = set(forms)
    names.update([f"{a} {b}" for a, b in pairwise(["^", *forms, "$"])])
    names.add(f"other:{min(forms.count('w') + forms.count('long-word'), _MOST_OTHER)}")
    names.add(f"tokens:{min(len(forms), 3 * _MOST_LENGTH) // 3}")
    numbers = f"numbers:{min(sum(form[0] == '#' for form in forms), _MOST_NUMBERS)}"
    names.update([f"{form} {numbers}" for form in forms if form in vocabulary])  # how many there are to sort, to add
    names.add(numbers)
    return names


def _form(token: str, vocabulary: frozenset[str]) -> str:
    """A word of the tasks as it is; a number by its digits; a letter, a Roman numeral, any other word by its kind."""
    first = token[0]
    if first.isdecimal():
        return f"#{min(len(token), 4)}"
    if token in vocabulary or not first.isalpha():
        return token
    if len(token) == 1:
        return "c" if token.isascii() else "w"
    if _ROMAN.fullmatch(token):
        return "roman-numeral"
    return "w" if len(token) <= _LONGEST_WORD else "long-word"


Text = tuple[str, bool]
"""A text, and whether it is a query of a task."""


def texts(n: int, seed: int, split: str) -> list[Text]:
    """Half of them queries of tasks, even over task and size, further questions included; half of them other texts."""
    return [*_of_tasks(n // 2, seed, split), *_others(n - n // 2, seed, split)]


def _of_tasks(n: int, seed: int, split: str) -> Iterator[Text]:
    rng = Random(f"lab-scope-{seed}-{split}")
    cells = [cell for cell in CELLS if cell[0] != "other"]
    made = 0
    while made < n:
        task, size = cells[made % len(cells)]
        further = TASKS[task].conversation(rng, size, plain=False) if rng.random() < 0.1 else ()
        prompt = rng.choice(further)[0] if further else TASKS[task].generate(rng, size).prompt
        if further or split_of(prompt) == split:  # further questions are too few to be split
            made += 1
            yield prompt, True


def _others(n: int, seed: int, split: str) -> Iterator[Text]:
    rng, task = Random(f"lab-scope-other-{seed}-{split}"), TASKS["other"]
    further = [size for size in task.sizes if size != "everyday"]
    made = 0
    while made < n:
        size = "everyday" if rng.random() < _EVERYDAY_SHARE else rng.choice(further)
        prompt = task.generate(rng, size).prompt
        if split_of(prompt) == split:
            made += 1
            yield prompt, False


def fit_scope(n: int = 40_000, seed: int = 0, report: Callable[[str], None] = print) -> Scope:
    """Trained on `n` texts that the lab's models may be trained on, its threshold set on others.

    The same seed gives the same scope. Raises DependencyError without scikit-learn.
    """
    train, held_out = texts(n, seed, "train"), texts(n // 4, seed, "unseen")
    vocabulary = _vocabulary([text for text, of_task in train if of_task])
    rows = [_features(text, vocabulary) for text, _ in train]
    seen = Counter(name for row in rows for name in row)
    names = sorted(name for name, count in seen.items() if count >= _FEATURE_IN)
    weights, bias = _fitted(rows, [of_task for _, of_task in train], names)
    scope = Scope(vocabulary, weights, bias, 0.0)
    odds = sorted(scope.log_odds(text) for text, of_task in held_out if of_task)
    scope = Scope(vocabulary, weights, bias, odds[int(FALSE_ALARMS * len(odds))])
    caught = sum(not scope.knows(text) for text, of_task in held_out if not of_task)
    report(
        f"{len(names):,} features, {len(weights):,} kept; held out: {100 * FALSE_ALARMS:.1f} % false alarms, "
        f"{100 * caught / sum(not of_task for _, of_task in held_out):.1f} % of other texts found"
    )
    return scope


def _vocabulary(prompts: Sequence[str]) -> frozenset[str]:
    seen = Counter(token for prompt in prompts for token in set(_TOKEN.findall(prompt.lower())) if token[0].isalpha())
    least = _WORD_IN * len(prompts) / 20_000
    return frozenset(word for word, count in seen.items() if count >= least)


def _fitted(rows: Sequence[set[str]], labels: Sequence[bool], names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Weights by name, small ones left out, and the bias."""
    with needs_extra("scikit-learn, to train the scope", "train"):
        from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression
    place = {name: column for column, name in enumerate(names)}
    columns = [[place[name] for name in row if name in place] for row in rows]
    ends = [0]
    for row in columns:
        ends.append(ends[-1] + len(row))
    flat = [column for row in columns for column in row]
    matrix = csr_matrix(([1.0] * len(flat), flat, ends), shape=(len(rows), len(names)))
    model = LogisticRegression(C=1.0, max_iter=300).fit(matrix, labels)
    found = {name: float(weight) for name, weight in zip(names, model.coef_[0], strict=True)}
    return {n: w for n, w in found.items() if abs(w) >= _SMALLEST_WEIGHT}, float(model.intercept_[0])
