"""Answers as cascades are fitted on them: of each model the first answer, with the evidence on it.

Read from a data set's Parquet file, or from JSON lines (gzipped or not), one query a row:

    {"i": 0, "split": "train", "prompt": "...", "prior": 0.3, "m": {"small": {"ok": 1, "conf": -0.2, "cost": 1e-5,
     "ms": 120, "tin": 30, "tout": 2, "ans": "42", "model": "jlab-small", "samples": ["42", "41"], "verdicts": [1, 0],
     "tokens": [["4", -0.1, [["4", -0.1], ["5", -2.4]]], ...]}, "large": {...}}}

`messages` may replace `prompt`. `prior_of` is the router whose score `prior` is (NAME@VERSION) and `metric` what made
`ok`: the same in every row. `ok` is a quality in [0, 1]; `conf` a raw signal, higher is surer; `cost` in US
dollars, `ms` milliseconds, `tin` and `tout` tokens. `m`, a prompt, `ok` and `cost` are required, all else is optional.
An infinite `conf` (the log of a probability of 0) counts as the model's most extreme finite one. `extra_cost` is what
the calls for `samples` and `verdicts` cost.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.answers import AnswerEvidence
from serve_app.data.dataset import MEASURES, Dataset, PoolAnswers
from serve_app.data.records import Record, messages_of, read_records
from serve_app.errors import ConfigError, DataError, writing
from serve_app.files import replacing
from serve_app.types import Query, TokenLogprob

_ARRAYS: Final = ("ok", "cost_usd", "latency_ms", "confidence", "tokens_in", "tokens_out", "extra_cost_usd")
_KEYS: Final = ("ok", "cost", "ms", "conf", "tin", "tout", "extra_cost")
_REQUIRED: Final = ("ok", "cost")
PRIOR_OF: Final = "prior_of"
METRIC: Final = "metric"
"""Keys of a data set's `about`, and of every row of a file."""
_MOST: Final = 1e15
"""No number of an answer is larger: the squares of larger ones, of which a fit takes sums, lose all figures."""
_JSON_LINES: Final = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class Recorded:
    """n queries, m models. Arrays have shape [n, m]; quality `ok` in [0, 1].

    `confidence`: the raw signal that was recorded, nan where none was. `evidence[row][model]`: the answer as signals
    see it. `extra_cost_usd`: of the further calls (samples, self-verifications) that made the evidence. `models` are
    names as recorded, of pools as a rule; `served` the models behind them, () where they are unknown. `groups`: of the
    queries, () if they have none. `prior_of`: the router, with its version, whose scores the priors are, and `metric`
    what made the quality; "" where the file does not say.
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
    evidence: tuple[tuple[AnswerEvidence, ...], ...]
    served: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    prior_of: str = ""
    metric: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.models))
        wrong = [name for name in _ARRAYS if getattr(self, name).shape != shape]
        if wrong or len(self.splits) != shape[0] or any(len(row) != shape[1] for row in self.evidence):
            raise ValueError(f"recorded answers of {shape[0]} queries and {shape[1]} models: wrong shape of {wrong}")

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Self:
        """The first sample of each pool's answers; the others count as samples for agreement, at their cost.

        Raises DataError, naming the row, for a quality that is missing or outside [0, 1].
        """
        pools = list(dataset.pools.values())
        for name, pool in dataset.pools.items():
            wrong = np.flatnonzero(~((pool.quality[:, 0] >= 0) & (pool.quality[:, 0] <= 1)))
            if len(wrong):
                value = pool.quality[wrong[0], 0]
                what = "is not scored; use `jethro data score`" if isnan(value) else f"is {value:g}, outside [0, 1]"
                raise DataError(f"row {wrong[0]} (id {dataset.ids[wrong[0]]!r}): the quality of {name} {what}")
        n = len(dataset)
        zero, unknown = np.zeros(n), np.full(n, np.nan)
        columns: dict[str, list[Floats]] = {
            "ok": [p.quality[:, 0] for p in pools],
            "cost_usd": [p.cost_usd[:, 0] for p in pools],
            "latency_ms": [zero if p.latency_ms is None else np.nan_to_num(p.latency_ms[:, 0]) for p in pools],
            "confidence": [unknown if p.confidence is None else p.confidence for p in pools],
            "tokens_in": [p.prompt_tokens[:, 0] for p in pools],
            "tokens_out": [p.completion_tokens[:, 0] for p in pools],
            "extra_cost_usd": [
                (zero if p.extra_cost_usd is None else p.extra_cost_usd) + p.cost_usd[:, 1:].sum(1) for p in pools
            ],
        }
        served = tuple(pool.model for pool in pools)
        return cls(
            models=tuple(dataset.pools),
            prompts=tuple(query.text for query in dataset.queries),
            splits=dataset.splits or ("",) * n,
            evidence=tuple(tuple(_evidence(dataset, pool, row) for pool in pools) for row in range(n)),
            served=served if all(served) else (),
            groups=dataset.groups if any(dataset.groups) else (),
            prior_of=str(dataset.about.get(PRIOR_OF) or ""),
            metric=str(dataset.about.get(METRIC) or ""),
            **{name: np.stack(column, axis=1) for name, column in columns.items()},
        )

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Self:
        """Some of the queries, in the order given; a mask of booleans will do as well."""
        at = np.arange(len(self))[np.asarray(rows, dtype=None if len(rows) else np.int64)]
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in at),
            splits=tuple(self.splits[i] for i in at),
            evidence=tuple(self.evidence[i] for i in at),
            groups=tuple(self.groups[i] for i in at) if self.groups else (),
            **{name: getattr(self, name)[at] for name in _ARRAYS},
        )

    def with_prior(self, scores: Floats, prior_of: str) -> Self:
        """The same answers with other priors, scores [n] of the router `prior_of`."""
        rows = zip(self.evidence, scores.tolist(), strict=True)
        evidence = tuple(tuple(replace(answer, prior=score) for answer in row) for row, score in rows)
        return replace(self, evidence=evidence, prior_of=prior_of)

    def split(self, name: str) -> Self:
        """The queries of a split, `train` or `test` for instance. Raises DataError naming the splits there are."""
        if not (rows := [i for i, split in enumerate(self.splits) if split == name]):
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
        evidence = tuple(tuple(row[j] for j in at) for row in self.evidence)
        arrays = {name: getattr(self, name)[:, at] for name in _ARRAYS}
        served = tuple(self.served[j] for j in at) if self.served else ()
        return replace(self, models=tuple(models), evidence=evidence, served=served, **arrays)

    def digest(self) -> str:
        """Hash of what a fit reads: models, queries, qualities, costs and answers; for the record of an artefact."""
        digest = hashlib.blake2b(repr((self.models, self.prompts)).encode("utf-8", "surrogatepass"), digest_size=8)
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        for row in self.evidence:
            said = [(e.text, [(t.token, t.logprob) for t in e.logprobs], e.samples, e.verdicts, e.prior) for e in row]
            digest.update(repr(said).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def read(path: Path) -> Recorded:
    """The answers in a file; see `read_answers` and `Recorded.from_dataset`. Raises DataError naming the file."""
    dataset = read_answers(path)
    try:
        return Recorded.from_dataset(dataset)
    except DataError as e:
        raise DataError(f"{path}, {e.message}") from None


def _evidence(dataset: Dataset, pool: PoolAnswers, row: int) -> AnswerEvidence:
    first, *others = pool.texts[row]
    prior = None if dataset.prior is None else float(dataset.prior[row])
    confidence = nan if pool.confidence is None else float(pool.confidence[row])
    return AnswerEvidence(
        query=dataset.queries[row],
        text=first,
        logprobs=pool.logprobs[row] if pool.logprobs else (),
        samples=(*others, *(pool.extra_samples[row] if pool.extra_samples else ())),
        verdicts=pool.verdicts[row] if pool.verdicts else (),
        prior=None if prior is None or isnan(prior) else prior,
        confidence=None if isnan(confidence) else confidence,
    )


def read_answers(path: Path) -> Dataset:
    """The data set in a Parquet file, or in JSON lines. Raises DataError naming file, row, and what to do."""
    if not path.name.endswith(_JSON_LINES):
        return Dataset.load(path)
    if not (records := list(read_records(path))):
        raise DataError(f"{path}: there is no row; collect answers with `jethro data collect`")
    models = tuple(_answers(records[0]))
    if not all(models):
        raise records[0].fault("an answer is of a model without a name; name it")
    numbers = np.array([_row(record, models) for record in records], dtype=np.float64)
    served = _served(records, models)
    evidence = []
    for record in records:
        query = Query(messages_of(record))
        evidence.append([_evidence_of(record, query, model) for model in models])
    priors = [np.nan if row[0].prior is None else row[0].prior for row in evidence]
    pools = {}
    for at, model in enumerate(models):
        values = dict(zip(_KEYS, numbers[:, at].T, strict=True))
        read = [row[at] for row in evidence]
        pools[model] = PoolAnswers(
            served[model],
            tuple((e.text,) for e in read),
            **{
                name: values[key][:, None]
                for name, key in zip(MEASURES[:4], ("ok", "tin", "tout", "cost"), strict=True)
            },
            latency_ms=None if np.isnan(values["ms"]).all() else values["ms"][:, None],
            logprobs=tuple(e.logprobs for e in read) if any(e.logprobs for e in read) else (),
            verdicts=tuple(e.verdicts for e in read) if any(e.verdicts for e in read) else (),
            extra_samples=tuple(e.samples for e in read) if any(e.samples for e in read) else (),
            confidence=None if np.isnan(values["conf"]).all() else _finite(values["conf"]),
            extra_cost_usd=values["extra_cost"] if values["extra_cost"].any() else None,
        )
    names = [record.text("i", "id") for record in records]
    references = tuple(record.text("reference") for record in records)
    splits = tuple(record.text("split") or "" for record in records)
    return Dataset(
        tuple(row[0].query for row in evidence),
        pools,
        tuple(record.text("group") or "" for record in records),
        {"source": path.name, **_origins(records)},
        tuple(str(name) for name in names) if len(set(names) - {None}) == len(names) else (),
        references if any(r is not None for r in references) else (),
        splits=splits if any(splits) else (),
        prior=None if np.isnan(priors).all() else np.array(priors),
    )


def write_answers(dataset: Dataset, path: Path) -> None:
    """A Parquet file, or JSON lines if the name ends so, whole or not at all.

    Raises ConfigError where it cannot be written, and for JSON lines of several samples, which hold the first alone.
    """
    with writing(path, "make room or give another --out"):
        if not path.name.endswith(".jsonl"):
            dataset.save(path)
            return
        if several := [name for name, pool in dataset.pools.items() if pool.quality.shape[1] > 1]:
            raise ConfigError(
                f"{path}: JSON lines hold one answer a query, {several[0]} has more; write a .parquet file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("w", encoding="utf-8") as out:
            for row in range(len(dataset)):
                out.write(json.dumps(_row_json(dataset, row), ensure_ascii=False) + "\n")


def _row_json(dataset: Dataset, row: int) -> dict[str, Any]:
    prior = None if dataset.prior is None else float(dataset.prior[row])
    return {
        "i": dataset.ids[row],
        "split": dataset.splits[row] if dataset.splits else "",
        "group": dataset.groups[row],
        "messages": [m.to_openai() for m in dataset.queries[row].messages],
        "reference": dataset.references[row] if dataset.references else None,
        **({} if prior is None or isnan(prior) else {"prior": prior}),
        **{key: dataset.about[key] for key in (PRIOR_OF, METRIC) if dataset.about.get(key)},
        "m": {name: _answer_json(pool, row) for name, pool in dataset.pools.items()},
    }


def _answer_json(pool: PoolAnswers, row: int) -> dict[str, Any]:
    """One answer; what is unknown of it is left out."""
    columns = {"ok": pool.quality, "cost": pool.cost_usd, "tin": pool.prompt_tokens, "tout": pool.completion_tokens}
    if pool.latency_ms is not None:
        columns["ms"] = pool.latency_ms
    numbers = {name: float(values[row, 0]) for name, values in columns.items()}
    for name, values in (("conf", pool.confidence), ("extra_cost", pool.extra_cost_usd)):
        if values is not None:
            numbers[name] = float(values[row])
    found: dict[str, Any] = {name: value for name, value in numbers.items() if not isnan(value)}
    found |= {"ans": pool.texts[row][0]} | ({"model": pool.model} if pool.model else {})
    if pool.logprobs:
        found["tokens"] = [[t.token, t.logprob, [list(pair) for pair in t.top]] for t in pool.logprobs[row]]
    for name, lists in (("samples", pool.extra_samples), ("verdicts", pool.verdicts)):
        if lists and lists[row]:
            found[name] = list(lists[row])
    return found


def _origins(records: Sequence[Record]) -> dict[str, str]:
    """What made the priors, and the quality. Raises DataError for the priors of two routers."""
    routers = {record.text(PRIOR_OF) or "": record for record in records if record.get("prior") is not None}
    if len(routers) > 1:
        names = " and ".join(name or "an unnamed router" for name in routers)
        raise next(reversed(routers.values())).fault(
            f"rows have the scores of {names} as their prior: collect all rows with one --router"
        )
    found = {PRIOR_OF: next(iter(routers), ""), METRIC: ", ".join(sorted({r.text(METRIC) or "" for r in records}))}
    return {key: value for key, value in found.items() if value}


def _served(records: Sequence[Record], models: Sequence[str]) -> dict[str, str]:
    """The model id behind each name, "" where no row names it. Raises DataError for two models under one name."""
    found = dict.fromkeys(models, "")
    for record in records:
        for name, answer in _answers(record).items():
            model = str(answer.get("model") or "")
            if model and found[name] and model != found[name]:
                raise record.fault(
                    f"{name}: this answer is of model {model}, those before of {found[name]}: rows mix two models "
                    "under one name; use one model per pool"
                )
            found[name] = found[name] or model
    return found


def _answers(record: Record) -> Mapping[str, Mapping[str, Any]]:
    answers = record.get("m")
    if not isinstance(answers, dict) or not all(isinstance(a, dict) for a in answers.values()):
        raise record.fault('there are no answers: a row needs "m", an object of model to answer')
    return answers


def _row(record: Record, models: Sequence[str]) -> list[list[float]]:
    """What is known of each model's answer, as numbers by `_KEYS`."""
    answers = _answers(record)
    missing = [m for m in models if m not in answers]
    other = [m for m in answers if m not in models]
    if missing or other:
        what = f"there is no answer of {missing[0]}" if missing else f"{other[0]} is in no row before"
        raise record.fault(f"{what}; every row needs the same models ({', '.join(models)}): leave the row out")
    return [[_number(record, model, key, answers[model].get(key)) for key in _KEYS] for model in models]


def _number(record: Record, model: str, key: str, value: Any) -> float:
    if value is None and key not in _REQUIRED:
        return float("nan") if key in ("conf", "ms") else 0.0
    if key == "conf" and isinstance(value, float) and not isfinite(value):
        return value
    if isinstance(value, bool | int | float) and (isinstance(value, int) or isfinite(value)):
        if not -_MOST <= value <= _MOST:
            raise record.fault(f"{model}: {key} is beyond {_MOST:g}; fix it or leave the row out")
        number = float(value)
        if key == "ok" and not 0.0 <= number <= 1.0:
            raise record.fault(f"{model}: ok is {number:g}; a quality is in [0, 1]: scale it")
        if key != "conf" and number < 0:
            raise record.fault(f"{model}: {key} is {number:g}; it must not be below 0")
        return number
    raise record.fault(f"{model}: {key} is {value!r}, not a number; fix it or leave the row out")


def _finite(confidence: Floats) -> Floats:
    """Infinite signals of shape [n] as the most extreme finite one, nan as it is; all nan where none is finite."""
    known = confidence[np.isfinite(confidence)]
    return np.clip(confidence, known.min(), known.max()) if len(known) else np.full(len(confidence), np.nan)


def _evidence_of(record: Record, query: Query, model: str) -> AnswerEvidence:
    answer = _answers(record)[model]
    try:
        prior = record.get("prior")
        return AnswerEvidence(
            query=query,
            text=str(answer.get("ans") or ""),
            logprobs=tuple(TokenLogprob(str(t[0]), float(t[1]), _top(t)) for t in answer.get("tokens") or ()),
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
        raise ValueError(f"{number:g} is not in [0, 1]")
    return number


def _top(token: Sequence[Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(text), float(value)) for text, value in (token[2] if len(token) > 2 else ()))
