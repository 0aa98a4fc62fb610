"""A fitted plan as a folder: one `plan.json`, read strictly. `load_plan(folder)` returns the EnsemblePlan to serve.

    {"kind": "ensemble", "format": 1, "version": "ensemble-<hash of all that decides>", "target": "strong-share=0.2",
     "rounds": [{"calls": [{"pool": "small", "samples": 1, "adapter": null}, ...], "stop_at": 0.83},
                {"calls": [{"pool": "large", "samples": 1, "adapter": null}], "stop_at": 0.0}],
     "select": "vote", "normalizer": "number", "agreement": {...},               see `ensemble.agreement`; {} if none
     "ranker": null, "fuser": null, "fuse_top": 0, "quorum": 1, "deadline_s": null,
     "models": {"small": "jlab-small", ...},
     "expected": {"quality": 0.98, "cost_usd": 1e-5, "share:large": 0.2, "quality:small": 0.9, ...},
     "data": {"digest": "...", "queries": 4000, ...}}

`share:<member>` in `expected` are of the queries that call the member, `quality:<member>` what it reaches alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import Any, Final, get_args

from serve_app.ensemble.agreement import Agreement
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round, Selection
from serve_app.errors import ConfigError, writing
from serve_app.files import write_whole
from serve_app.grading.normalizers import normalizer
from serve_app.learning.saved_folder import read_json

FILE: Final = "plan.json"
FORMAT: Final = 1
_KIND: Final = "ensemble"
_REMEDY: Final = "give the folder of a fitted ensemble; `jethro ensemble fit` writes one"
_AGAIN: Final = "fit the ensemble again"
_DECIDES: Final = (
    "rounds", "select", "normalizer", "agreement", "ranker", "fuser", "fuse_top", "quorum", "deadline_s",
)  # fmt: skip
_KEYS: Final = frozenset({"kind", "format", "version", "target", "models", "expected", "data", *_DECIDES})
_MOST_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True)
class FittedPlan:
    """A plan and its origin: the target as written, and figures of the data (digest, queries, ...)."""

    plan: EnsemblePlan
    target: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def version_of(plan: EnsemblePlan) -> str:
    """`ensemble-` and a hash of all that decides: the same plan has the same version wherever it was fitted."""
    return _version(_decides(plan))


def save_plan(fitted: FittedPlan, folder: Path) -> None:
    """Write `plan.json`; a reader never sees half of it. Raises ConfigError where the folder cannot be written."""
    plan = fitted.plan
    body: dict[str, Any] = {"kind": _KIND, "format": FORMAT, "version": plan.version, "target": fitted.target}
    body |= {**_decides(plan), "models": dict(plan.models), "expected": dict(plan.expected)}
    body |= {"data": dict(fitted.data)}
    path = folder / FILE
    with writing(path, "give a folder that can"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_plan(folder: Path) -> EnsemblePlan:
    """The plan saved there. Raises ConfigError naming the file, the key and what to do."""
    return load_fitted(folder).plan


def load_fitted(folder: Path) -> FittedPlan:
    """The plan saved there, with its target and data. Raises ConfigError naming the file, the key and what to do."""
    path = folder / FILE
    body = read_json(path, kind=_KIND, version=FORMAT, remedy=_REMEDY)
    if missing := _KEYS ^ set(body):
        key = min(missing)
        raise ConfigError(f"{path}: {key} is {'no key of a plan' if key in body else 'missing'}; {_AGAIN}")
    version = _version({key: body[key] for key in _DECIDES})
    if body["version"] != version:
        raise ConfigError(
            f"{path}: version is {body['version']!r}, but this content is {version}: it was changed by hand; fit the "
            "ensemble again, or write that version if the change is meant"
        )
    for key in ("models", "expected", "data", "agreement"):
        if not isinstance(body[key], dict):
            raise ConfigError(f"{path}: {key} must be an object; {_AGAIN}")
    plan = EnsemblePlan(
        rounds=_rounds(path, body["rounds"]),
        select=_one_of(path, "select", body["select"], get_args(Selection)),
        version=version,
        normalizer=_normalizer(path, body["normalizer"]),
        agreement=_agreement(path, body["agreement"]),
        ranker=_text(path, "ranker", body["ranker"]),
        fuser=_text(path, "fuser", body["fuser"]),
        fuse_top=_whole(path, "fuse_top", body["fuse_top"], 0),
        quorum=_whole(path, "quorum", body["quorum"], 1),
        deadline_s=_seconds(path, body["deadline_s"]),
        expected=_expected(path, body["expected"]),
        models=_models(path, body["models"]),
    )
    return FittedPlan(plan, str(body["target"]), dict(body["data"]))


def agreement_of(plan: EnsemblePlan, where: str = "agreement") -> Agreement | None:
    """The agreement model of a plan; None if it has none. Raises ConfigError naming `where`."""
    return Agreement.from_state(plan.agreement, where) if plan.agreement else None


def _decides(plan: EnsemblePlan) -> dict[str, Any]:
    """What a plan's version is of, as JSON has it."""
    calls = [[{"pool": m.pool, "samples": m.samples, "adapter": m.adapter} for m in each.calls] for each in plan.rounds]
    rounds = [{"calls": c, "stop_at": each.stop_at} for c, each in zip(calls, plan.rounds, strict=True)]
    found = {key: getattr(plan, key) for key in _DECIDES if key not in ("rounds", "agreement")}
    return {"rounds": rounds, "agreement": dict(plan.agreement), **found}


def _version(decides: Mapping[str, Any]) -> str:
    text = json.dumps([decides[key] for key in _DECIDES], sort_keys=True)
    return f"ensemble-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=5).hexdigest()}"


def _rounds(path: Path, specs: Any) -> tuple[Round, ...]:
    if not isinstance(specs, list) or not specs:
        raise ConfigError(f"{path}: rounds must be a list of at least one round; {_AGAIN}")
    found = []
    for at, spec in enumerate(specs):
        where = f"{path}: rounds[{at}]"
        if not isinstance(spec, dict) or set(spec) != {"calls", "stop_at"}:
            raise ConfigError(f"{where}: must be an object of calls and stop_at; {_AGAIN}")
        if not isinstance(spec["calls"], list) or not spec["calls"]:
            raise ConfigError(f"{where}.calls: must be a list of at least one call; {_AGAIN}")
        calls = tuple(_call(f"{where}.calls[{i}]", call) for i, call in enumerate(spec["calls"]))
        names = [call.name for call in calls]
        if len(set(names)) < len(names):
            raise ConfigError(f"{where}.calls: name a member twice ({', '.join(names)}); give it more samples")
        if not _is_number(spec["stop_at"]) or spec["stop_at"] < 0:
            raise ConfigError(f"{where}.stop_at: is {spec['stop_at']!r}; give a number from 0 (above 1: never)")
        found.append(Round(calls, float(spec["stop_at"])))
    return tuple(found)


def _call(where: str, spec: Any) -> MemberCalls:
    if not isinstance(spec, dict) or set(spec) != {"pool", "samples", "adapter"}:
        raise ConfigError(f"{where}: must be an object of pool, samples and adapter; {_AGAIN}")
    pool, samples, adapter = spec["pool"], spec["samples"], spec["adapter"]
    if not isinstance(pool, str) or not pool or (adapter is not None and (not isinstance(adapter, str) or not adapter)):
        raise ConfigError(f"{where}: pool is a name, adapter a name or null; {_AGAIN}")
    if type(samples) is not int or not 1 <= samples <= _MOST_SAMPLES:
        raise ConfigError(f"{where}.samples: is {samples!r}; give a whole number from 1 to {_MOST_SAMPLES}")
    return MemberCalls(pool, samples, adapter)


def _normalizer(path: Path, name: Any) -> str:
    normalizer(str(name), f"{path}: normalizer")
    return str(name)


def _agreement(path: Path, state: Any) -> Mapping[str, object]:
    if state:
        Agreement.from_state(state, f"{path}: agreement")
    return dict(state)


def _one_of(path: Path, key: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ConfigError(f"{path}: {key} is {value!r}; give one of {', '.join(known)}")
    return value


def _text(path: Path, key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{path}: {key} is {value!r}, not null or a folder; {_AGAIN}")
    return value


def _whole(path: Path, key: str, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise ConfigError(f"{path}: {key} is {value!r}, not a whole number from {least}; {_AGAIN}")
    return value


def _seconds(path: Path, value: Any) -> float | None:
    if value is not None and (not _is_number(value) or value <= 0):
        raise ConfigError(f"{path}: deadline_s is {value!r}, not null or a number of seconds; {_AGAIN}")
    return None if value is None else float(value)


def _expected(path: Path, values: Mapping[str, Any]) -> dict[str, float]:
    if not all(_is_number(value) for value in values.values()):
        raise ConfigError(f"{path}: expected must be an object of numbers; {_AGAIN}")
    return {str(key): float(value) for key, value in values.items()}


def _models(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise ConfigError(f"{path}: models must be an object of names; {_AGAIN}")
    return dict(values)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= float_info.max if isinstance(value, int) else isfinite(value)
