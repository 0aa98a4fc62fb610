"""Reads candidate answers with scores in the shape that MixInstruct is published in (LLM-Blender, arXiv 2306.02561).

A JSON list, or JSON lines (gzipped or not), of

    {"id": "laion/7", "instruction": "...", "input": "...", "output": "the reference",
     "candidates": [{"model": "vicuna-13b-1.1", "decoding_method": "top_p_sampling", "text": "...",
                     "scores": {"bartscore": -3.1, "bertscore": 0.71, "bleurt": -0.5, "rougeL": 0.3}}],
     "cmp_results": {"vicuna-13b-1.1,alpaca-native": "A is better"}}

The query is instruction and input, joined without a space, as LLM-Blender does. Each model is a pool; several
candidates of one model, by decoding methods for instance, are its samples, in their order. A chosen score becomes the
quality; all of them are kept in `PoolAnswers.scores`. What is not exactly so has a defined outcome:

- A model may be missing from a row: its row is left out of a Dataset, whose pools answer all queries, and counted.
- A pool has as many samples as most rows have of its model: rows with fewer are left out, further ones are dropped.
- An empty text is an answer; the number of them is kept. A text that is null or missing is an error.
- A candidate without the chosen score is an error, unless no candidate has any score: then quality is unknown.
- Unknown keys are ignored, and named in `about["unknown_keys"]`.
"""

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import MEASURES, Dataset, PoolAnswers
from serve_app.data.preferences import Preferences
from serve_app.data.records import Record, json_lines, read_records, unique_ids
from serve_app.errors import DataError
from serve_app.types import Message, Query

_ROW_KEYS: Final = frozenset({"id", "instruction", "input", "output", "candidates", "cmp_results"})
_CANDIDATE_KEYS: Final = frozenset({"model", "decoding_method", "text", "scores"})
_DEFAULT: Final = "bartscore"
"""The score that LLM-Blender trains and selects on, where there are several."""
_BLEURT: Final = (-2.0, 1.0)
"""Nearly all values of BLEURT-20 and earlier checkpoints are in here; those beyond count as its ends."""
_VERDICTS: Final = {"a is better": 1.0, "b is better": 0.0, "same good": 0.5, "same bad": 0.5}
_LISTS: Final = (".json", ".json.gz")
_NAMES: Final = (*_LISTS, ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One candidate of a row."""

    model: str
    text: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredCandidates:
    """A request; candidates, with `scores` [candidates, metrics], higher is better; who wrote them, () if unknown."""

    source: str
    candidates: tuple[str, ...]
    scores: Floats
    reference: str | None = None
    models: tuple[str, ...] = ()


def is_mixinstruct(path: Path) -> bool:
    """Whether the file is named as JSON, which no other import reads, or the first of its JSON lines has candidates.

    Never raises.
    """
    if path.name.lower().endswith(_LISTS) or not path.name.lower().endswith(_NAMES):
        return path.name.lower().endswith(_LISTS)
    try:
        first = next(iter(_records(path)), None)
    except DataError:
        return False
    return first is not None and isinstance(first.values.get("candidates"), list)


def import_mixinstruct(
    path: Path,
    models: Mapping[str, str] | None = None,
    *,
    score: str | None = None,
    quality_range: tuple[float, float] | None = None,
) -> Dataset:
    """The dataset of a file; see the module.

    `models` names the pools to import and the model of each; without any, all models that are found. `score` is the
    quality: bartscore by default, or the only one. It is mapped to [0, 1] as `about["score_map"]` says: BARTScore is a
    mean log-likelihood, whose exponential is taken; BLEURT's range -2 to 1 is scaled; others are taken as they are, or
    as percentages if one is above 1. With `quality_range` it is kept in that unit instead. Raises DataError naming
    file, row and key.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: there is no row")
    found = list(dict.fromkeys(answer.model for _, answers in rows for answer in answers))
    models = models or {model: model for model in found}
    if missing := [model for model in models.values() if model not in found]:
        raise DataError(f"{path}: no candidate is of model {missing[0]!r}; there are {', '.join(found)}")
    counts = {model: _usual_count(rows, model) for model in models.values()}
    kept = [(r, a) for r, a in rows if all(_count(a, model) >= k for model, k in counts.items())]
    if not kept:
        raise DataError(f"{path}: no row has candidates of all of {', '.join(counts)}; choose models with --pool")
    metric = _chosen_score(path, kept, score)
    mapping = None if metric is None else _map_to_unit(metric, kept, counts, quality_range)
    pools = {name: _pool(kept, model, counts[model]) for name, model in models.items()}
    about: dict[str, Any] = {
        "source": path.name,
        "left_out": len(rows) - len(kept),
        "surplus_candidates": sum(max(0, _count(a, model) - k) for _, a in kept for model, k in counts.items()),
        "empty_texts": sum(not text for pool in pools.values() for texts in pool.texts for text in texts),
        "unknown_keys": _unknown_keys(rows),
        "not_recorded": sorted(MEASURES[1:]),
        "contaminated_dropped": 0,
    }
    if metric is not None and mapping is not None:
        about |= {"metric": metric, "score_map": mapping.formula}
        about |= {} if quality_range is None else {"quality_range": list(quality_range)}
        pools = {name: mapping.applied(pool, metric) for name, pool in pools.items()}
    records = [record for record, _ in kept]
    references = tuple(_reference(record) for record in records)
    return Dataset(
        tuple(Query((Message("user", _source(record)),)) for record in records),
        pools,
        tuple(_group(record) for record in records),
        about,
        unique_ids(records, f"{path.name.split('.')[0]}-"),
        references if any(r is not None for r in references) else (),
    )


def scored_candidates(path: Path, metrics: Sequence[str] = ()) -> list[ScoredCandidates]:
    """The rows of a file as rankers learn from them, of any number of candidates each.

    `metrics` are the columns of the scores; without any, all that the first candidate has. Raises DataError naming row
    and key, for a candidate that lacks one of them too.
    """
    metrics, found = metrics or metrics_of(path), []
    for record, answers in _rows(path):
        for number, answer in enumerate(answers):
            _check_score(record, number, answer, metrics)
        scores = np.array([[answer.scores[m] for m in metrics] for answer in answers], dtype=np.float64)
        texts, models = zip(*((answer.text, answer.model) for answer in answers), strict=True)
        found.append(ScoredCandidates(_source(record), texts, scores, _reference(record), models))
    return found


def metrics_of(path: Path) -> tuple[str, ...]:
    """Names of the scores that the first candidate of a file has. Raises DataError if there are none."""
    for record, answers in _rows(path):
        if not answers[0].scores:
            raise record.fault("candidates[0] has no scores")
        return tuple(answers[0].scores)
    raise DataError(f"{path}: there is no row")


def candidates_of(dataset: Dataset, metrics: Sequence[str] = ()) -> list[ScoredCandidates]:
    """The same of a dataset: all samples of all pools; without `metrics` their quality is the one score.

    Raises DataError for a metric that a pool has no scores of, or a sample without one.
    """
    columns = []
    for name, pool in dataset.pools.items():
        if missing := [metric for metric in metrics if metric not in pool.scores]:
            there = ", ".join(pool.scores) or "none"
            raise DataError(f"pool {name} has no scores of {missing[0]!r}: there are {there}")
        columns.append(np.stack([pool.scores[m] for m in metrics] or [pool.quality], axis=2))
    scores = np.concatenate(columns, axis=1)
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores).any(axis=(1, 2)))[0])
        raise DataError(f"row {row} (id {dataset.ids[row]!r}): an answer has no score; use `jethro data score`")
    references = dataset.references or (None,) * len(dataset)
    texts = [tuple(t for pool in dataset.pools.values() for t in pool.texts[row]) for row in range(len(dataset))]
    models = tuple(pool.model for pool in dataset.pools.values() for _ in range(pool.quality.shape[1]))
    return [
        ScoredCandidates(query.text, own, scores[row], reference, models)
        for row, (query, own, reference) in enumerate(zip(dataset.queries, texts, references, strict=True))
    ]


def import_comparisons(path: Path) -> Preferences:
    """The battles in `cmp_results`, as MixInstruct's test split has them of ChatGPT. Rows without any are left out.

    Raises DataError naming row and key for a pair or a verdict that is malformed, and for a file without battles.
    """
    queries, left, right, outcomes = [], [], [], []
    for record in _records(path):
        given = record.get("cmp_results")
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as e:
                raise record.fault(f"cmp_results is not JSON ({e})") from e
        if given is None:
            continue
        if not isinstance(given, dict):
            raise record.fault("cmp_results must be an object of pairs of models")
        for pair, verdict in given.items():
            a, comma, b = pair.partition(",")
            outcome = _VERDICTS.get(str(verdict).strip().lower())
            if not (a and comma and b) or "," in b or outcome is None:
                raise record.fault(
                    f"cmp_results: {pair!r} is {verdict!r}; need 'A,B' and one of {', '.join(_VERDICTS)}"
                )
            queries.append(Query((Message("user", _source(record)),)))
            left.append(a)
            right.append(b)
            outcomes.append(outcome)
    if not outcomes:
        raise DataError(f"{path}: no row has cmp_results; there is no battle")
    return Preferences(tuple(queries), tuple(left), tuple(right), np.array(outcomes, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _ScoreMap:
    """How one score becomes the quality."""

    formula: str
    low: float = 0.0
    high: float = 1.0
    exponential: bool = False

    def applied(self, pool: PoolAnswers, metric: str) -> PoolAnswers:
        """The pool with its quality filled."""
        values = pool.scores[metric]
        scaled = np.exp(values) if self.exponential else (values - self.low) / (self.high - self.low)
        quality = np.clip(scaled, 0.0, 1.0) if self.formula != "as recorded" else values
        rest = {name: getattr(pool, name) for name in ("cost_usd", "prompt_tokens", "completion_tokens")}
        return PoolAnswers(pool.model, pool.texts, quality, **rest, scores=pool.scores)


_Row = tuple[Record, tuple[ScoredAnswer, ...]]


def _map_to_unit(
    metric: str, rows: Sequence[_Row], counts: Mapping[str, int], quality_range: tuple[float, float] | None
) -> _ScoreMap:
    """The map of a score, which every candidate of the models has; raises DataError for one outside its range."""
    name = metric.lower()
    checked = [(r, n, a) for r, answers in rows for n, a in enumerate(answers) if a.model in counts]
    for record, number, answer in checked:
        _check_score(record, number, answer, (metric,))
    if quality_range is not None:
        low, high, found = *quality_range, _ScoreMap("as recorded")
    elif "bartscore" in name:
        low, high, found = -float("inf"), 0.0, _ScoreMap(f"exp({metric})", exponential=True)
    elif "bleurt" in name:
        low, high = -float("inf"), float("inf")
        found = _ScoreMap(f"({metric} + 2) / 3, clipped to [0, 1]", *_BLEURT)
    else:
        low, high = 0.0, 100.0 if max(answer.scores[metric] for _, _, answer in checked) > 1.0 else 1.0
        found = _ScoreMap(metric if high == 1.0 else f"{metric} / 100", 0.0, high)
    for record, number, answer in checked:
        if not low <= answer.scores[metric] <= high:
            raise record.fault(
                f"candidates[{number}].scores.{metric} is {answer.scores[metric]:g}, outside {low:g} to {high:g}; give "
                "its scale with --quality-range LOW HIGH"
            )
    return found


def _chosen_score(path: Path, rows: Sequence[_Row], score: str | None) -> str | None:
    """The score as the file writes it; None where there are no scores, and none is requested."""
    there = list(dict.fromkeys(name for _, answers in rows for answer in answers for name in answer.scores))
    if score is None and not there:
        return None
    requested = score or (there[0] if len(there) == 1 else _DEFAULT)
    found = [name for name in there if name.lower() == requested.lower()]
    if not found:
        names = ", ".join(there) or "none: import without --score, then use `jethro data score`"
        raise DataError(f"{path}: no candidate has a score {requested!r}; choose one with --score: there are {names}")
    return found[0]


def _check_score(record: Record, number: int, answer: ScoredAnswer, metrics: Sequence[str]) -> None:
    if missing := [metric for metric in metrics if metric not in answer.scores]:
        there = ", ".join(answer.scores) or "none"
        raise record.fault(
            f"candidates[{number}].scores has no {missing[0]} ({answer.model}): there are {there}; leave the row out"
        )


def _pool(rows: Sequence[_Row], model: str, samples: int) -> PoolAnswers:
    """The first so many answers of a model to each query, not graded."""
    own = [[answer for answer in answers if answer.model == model][:samples] for _, answers in rows]
    names = list(dict.fromkeys(name for answers in own for answer in answers for name in answer.scores))
    nan = float("nan")
    scores = {
        name: np.array([[answer.scores.get(name, nan) for answer in answers] for answers in own]) for name in names
    }
    zeros = np.zeros((len(own), samples))
    texts = tuple(tuple(answer.text for answer in answers) for answers in own)
    return PoolAnswers(model, texts, np.full(zeros.shape, nan), zeros, zeros, zeros, scores=scores)


def _rows(path: Path) -> Iterator[_Row]:
    for record in _records(path):
        _source(record)
        given = record.values.get("candidates")
        if not isinstance(given, list) or not given:
            raise record.fault("candidates must be a list with at least one candidate")
        yield record, tuple(_answer(record, number, item) for number, item in enumerate(given))


def _answer(record: Record, number: int, item: Any) -> ScoredAnswer:
    where = f"candidates[{number}]"
    if not isinstance(item, dict):
        raise record.fault(f"{where} is no object")
    model, text, scores = item.get("model"), item.get("text"), item.get("scores") or {}
    if not isinstance(model, str) or not model:
        raise record.fault(f"{where}.model is {model!r}; it must be the model's name")
    if not isinstance(text, str):
        raise record.fault(f"{where}.text is {text!r}; it must be a text, which may be empty")
    if not isinstance(scores, dict):
        raise record.fault(f"{where}.scores must be an object of numbers")
    numbers = {str(name): _number(record, f"{where}.scores.{name}", value) for name, value in scores.items()}
    return ScoredAnswer(model, text, numbers)


def _number(record: Record, where: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise record.fault(f"{where} is {value!r}, not a finite number")
    return number


def _records(path: Path) -> Iterator[Record]:
    """The items of a JSON list, or the rows of JSON lines, whichever the file holds."""
    if not path.name.lower().endswith(_NAMES):
        yield from read_records(path)
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig")
            first = next((c for c in iter(lambda: text.read(1), "") if not c.isspace()), "")
            text.seek(0)
            yield from _items(path, json.load(text)) if first == "[" else json_lines(path, text)
    except (OSError, EOFError, ValueError, RecursionError) as e:
        raise DataError(f"{path}: cannot be read as JSON ({e})") from e


def _items(path: Path, items: Any) -> Iterator[Record]:
    for number, values in enumerate(items):
        if not isinstance(values, dict):
            raise DataError(f"{path}, item {number}: must be a JSON object")
        yield Record(values, f"{path}, item {number}")


def _source(record: Record) -> str:
    parts = [record.values.get(key) for key in ("instruction", "input")]
    for key, part in zip(("instruction", "input"), parts, strict=True):
        if not isinstance(part, str | None):
            raise record.fault(f"{key} is {part!r}; it must be a text")
    source = "".join(part or "" for part in parts)
    if not source.strip():
        raise record.fault("there is no instruction and no input")
    return source


def _reference(record: Record) -> str | None:
    """The output; the first of several."""
    output = record.get("output")
    if isinstance(output, list):
        output = output[0] if output else None
    if not isinstance(output, str | None):
        raise record.fault(f"output is {output!r}; it must be a text")
    return output


def _group(record: Record) -> str:
    """MixInstruct's ids begin with the set that a row is from: `laion/7`."""
    origin, slash, _ = str(record.get("id") or "").partition("/")
    return origin if slash else ""


def _count(answers: Sequence[ScoredAnswer], model: str) -> int:
    return sum(answer.model == model for answer in answers)


def _usual_count(rows: Sequence[_Row], model: str) -> int:
    """How many candidates of a model most rows have that have any; of equally frequent numbers the least."""
    counts = Counter(n for _, answers in rows if (n := _count(answers, model)))
    return min(counts, key=lambda n: (-counts[n], n))


def _unknown_keys(rows: Sequence[_Row]) -> list[str]:
    found = {key for record, _ in rows for key in record.values.keys() - _ROW_KEYS}
    inner = {key for r, _ in rows for item in r.values["candidates"] for key in item.keys() - _CANDIDATE_KEYS}
    return [*sorted(map(str, found)), *(f"candidates.{key}" for key in sorted(map(str, inner)))]
