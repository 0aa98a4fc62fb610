"""Recorded answers of several models to the same queries, with what each looked like and whether it was right.

JSON lines (gzipped or not), one query a row:

    {"i": 0, "split": "train", "prompt": "...", "prior": 0.3, "m": {"small": {"ok": 1, "conf": -0.2, "cost": 1e-5,
     "ms": 120, "tin": 30, "tout": 2, "ans": "42", "model": "jlab-small", "samples": ["42", "41"], "verdicts": [1, 0],
     "tokens": [["4", -0.1, [["4", -0.1], ["5", -2.4]]], ...]}, "large": {...}}}

`messages` may stand for `prompt`. `ok` is a quality in [0, 1]; `conf` a raw signal, higher is surer; `cost` in US
dollars, `ms` milliseconds, `tin` and `tout` tokens. Needed are `m`, a prompt, `ok` and `cost`; all else may be absent:
`conf` is nan then, `ms`, `tin` and `tout` are 0. An infinite `conf` (the log of a probability of 0) counts as the
model's most extreme finite one. What calls for `samples` or `verdicts` cost is in `extra_cost`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.answers import AnswerEvidence
from serve_app.data.records import Record, messages_of, read_records
from serve_app.errors import DataError
from serve_app.types import Query, TokenLogprob

_ARRAYS: Final = ("ok", "cost_usd", "latency_ms", "confidence", "tokens_in", "tokens_out", "extra_cost_usd")
_KEYS: Final = dict(zip(_ARRAYS, ("ok", "cost", "ms", "conf", "tin", "tout", "extra_cost"), strict=True))
_NEEDED: Final = ("ok", "cost")
_MOST: Final = 1e15
"""No number of an answer is larger: the squares of larger ones, of which a fit takes sums, lose all figures."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """n queries, m models. Arrays have shape [n, m]; quality `ok` in [0, 1].

    `confidence`: the raw signal that was recorded, nan where none was. `judged[row][model]`: the answer as signals see
    it. `extra_cost_usd`: of the further calls (samples, self-verifications) that the signals in `judged` took.
    `models` are names as recorded, of pools as a rule; `served` the models behind them, () where nobody knows.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    splits: tuple[str, ...]
    ok: Floats
    cost_usd: Floats
    latency_ms: Floats
    confidence: Floats
    tokens_in: Floats
    tokens_out: Floats
    extra_cost_usd: Floats
    judged: tuple[tuple[AnswerEvidence, ...], ...]
    served: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.models))
        wrong = [name for name in _ARRAYS if getattr(self, name).shape != shape]
        if wrong or len(self.splits) != shape[0] or any(len(row) != shape[1] for row in self.judged):
            raise ValueError(f"recorded answers of {shape[0]} queries and {shape[1]} models: wrong shape of {wrong}")

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Self:
        """Some of the queries, in the order given; a mask of booleans will do as well."""
        at = np.arange(len(self))[np.asarray(rows, dtype=None if len(rows) else np.int64)]
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in at),
            splits=tuple(self.splits[i] for i in at),
            judged=tuple(self.judged[i] for i in at),
            **{name: getattr(self, name)[at] for name in _ARRAYS},
        )

    def split(self, name: str) -> Self:
        """The queries of a split, `train` or `test` for instance. Raises DataError naming the splits there are."""
        rows = [i for i, split in enumerate(self.splits) if split == name]
        if not rows:
            there = ", ".join(sorted(set(self.splits) - {""})) or "none: leave --split out"
            raise DataError(f"the recorded answers have no split {name!r}: they have {there}")
        return self.take(rows)

    def of(self, models: Sequence[str]) -> Self:
        """The answers of some of the models, in the order given. Raises DataError for an unknown or repeated one."""
        unknown = [m for m in models if m not in self.models]
        if unknown or not models or len(set(models)) < len(models):
            what = f"no model {unknown[0]!r}" if unknown else f"one column a model, not {list(models)}"
            raise DataError(f"the recorded answers have {what}: they have {', '.join(self.models)}")
        at = [self.models.index(m) for m in models]
        judged = tuple(tuple(row[j] for j in at) for row in self.judged)
        arrays = {name: getattr(self, name)[:, at] for name in _ARRAYS}
        served = tuple(self.served[j] for j in at) if self.served else ()
        return replace(self, models=tuple(models), judged=judged, served=served, **arrays)

    def digest(self) -> str:
        """Hash of what a fit reads: models, queries, qualities, costs and answers; for the record of an artefact."""
        digest = hashlib.blake2b(repr((self.models, self.prompts)).encode("utf-8", "surrogatepass"), digest_size=8)
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        for row in self.judged:
            said = [(j.text, [(t.token, t.logprob) for t in j.logprobs], j.samples, j.verdicts, j.prior) for j in row]
            digest.update(repr(said).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def read(path: Path) -> Recorded:
    """The answers in a file. Raises DataError naming the file, the row, what is wrong with it and the mend."""
    records = list(read_records(path))
    if not records:
        raise DataError(f"{path}: there is no row; collect answers with `jethro cascade collect`")
    models = tuple(_answers(records[0]))
    if not all(models):
        raise records[0].fault("an answer is of a model without a name; name it")
    rows = [_row(record, models) for record in records]
    arrays = {name: np.array([[answer[name] for answer in row] for row in rows], dtype=np.float64) for name in _ARRAYS}
    arrays["confidence"] = _finite(arrays["confidence"])
    queries = [Query(messages_of(record)) for record in records]
    judged = [
        tuple(_judged(record, query, model) for model in models) for record, query in zip(records, queries, strict=True)
    ]
    return Recorded(
        models=models,
        prompts=tuple(query.text for query in queries),
        splits=tuple(record.text("split") or "" for record in records),
        judged=tuple(judged),
        served=_served(records, models),
        **arrays,
    )


def _served(records: Sequence[Record], models: Sequence[str]) -> tuple[str, ...]:
    """The model id behind each name, all or none. Raises DataError for answers of two models under one name."""
    found = dict.fromkeys(models, "")
    for record in records:
        for name, answer in _answers(record).items():
            model = str(answer.get("model") or "")
            if model and found[name] and model != found[name]:
                raise record.fault(
                    f"{name}: this answer is of model {model}, those before of {found[name]}; what tells a good answer "
                    "of one tells nothing of the other: fit on the answers of one"
                )
            found[name] = found[name] or model
    return tuple(found.values()) if all(found.values()) else ()


def _answers(record: Record) -> Mapping[str, Mapping[str, Any]]:
    answers = record.get("m")
    if not isinstance(answers, dict) or not all(isinstance(a, dict) for a in answers.values()):
        raise record.fault('there are no answers: a row needs "m", an object of model to answer')
    return answers


def _row(record: Record, models: Sequence[str]) -> list[dict[str, float]]:
    """What is known of each model's answer, as numbers."""
    answers = _answers(record)
    missing = [m for m in models if m not in answers]
    other = [m for m in answers if m not in models]
    if missing or other:
        what = f"there is no answer of {missing[0]}" if missing else f"{other[0]} is in no row before"
        raise record.fault(f"{what}; every row needs the same models ({', '.join(models)}): leave the row out")
    return [
        {name: _number(record, model, key, answers[model].get(key)) for name, key in _KEYS.items()} for model in models
    ]


def _number(record: Record, model: str, key: str, value: Any) -> float:
    if value is None and key not in _NEEDED:
        return float("nan") if key == "conf" else 0.0
    if key == "conf" and isinstance(value, float) and not isfinite(value):
        return value
    if isinstance(value, bool | int | float) and (isinstance(value, int) or isfinite(value)):
        if not -_MOST <= value <= _MOST:
            raise record.fault(f"{model}: {key} is beyond {_MOST:g}; mend it or leave the row out")
        number = float(value)
        if key == "ok" and not 0.0 <= number <= 1.0:
            raise record.fault(f"{model}: ok is {number:g}; a quality lies in [0, 1]: scale it")
        if key != "conf" and number < 0:
            raise record.fault(f"{model}: {key} is {number:g}; it cannot be below 0")
        return number
    raise record.fault(f"{model}: {key} is {value!r}, not a number; mend it or leave the row out")


def _finite(confidence: Floats) -> Floats:
    """Infinite signals [n, m] as the model's most extreme finite one, nan as it is."""
    known = np.isfinite(confidence)
    low = np.min(confidence, axis=0, where=known, initial=np.inf)
    high = np.max(confidence, axis=0, where=known, initial=-np.inf)
    return np.where(known.any(0), np.clip(confidence, low, high), np.nan)


def _judged(record: Record, query: Query, model: str) -> AnswerEvidence:
    answer = _answers(record)[model]
    try:
        tokens = tuple(TokenLogprob(str(t[0]), float(t[1]), _top(t)) for t in answer.get("tokens") or ())
        prior = record.get("prior")
        return AnswerEvidence(
            query=query,
            text=str(answer.get("ans") or ""),
            logprobs=tokens,
            samples=tuple(str(s) for s in answer.get("samples") or ()),
            verdicts=tuple(_fraction(v) for v in answer.get("verdicts") or ()),
            prior=None if prior is None else _fraction(prior),
        )
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as e:
        raise record.fault(
            f"{model}: tokens, samples, verdicts or prior are malformed ({e}); tokens are [text, log-prob, "
            "[[text, log-prob], ...]], samples texts, verdicts and prior numbers in [0, 1]"
        ) from e


def _fraction(value: Any) -> float:
    """In [0, 1], or nan for what is not known. Raises TypeError or ValueError."""
    number = float(value)
    if number < 0.0 or number > 1.0:
        raise ValueError(f"{number:g} does not lie in [0, 1]")
    return number


def _top(token: Sequence[Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(text), float(value)) for text, value in (token[2] if len(token) > 2 else ()))
