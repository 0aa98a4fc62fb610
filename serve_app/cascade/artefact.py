"""A fitted chain as a folder: one `chain.json`, read strictly. `load_chain(folder)` returns the Chain to serve.

    {"kind": "cascade", "format": 1, "version": "cascade-<hash of levels and probe_tokens>",
     "target": "strong-share=0.5", "probe_tokens": null,
     "levels": [{"pool": "small", "model": "jlab-small",
                 "signal": {"name": "min_logprob"},                               see `signals.specs`
                 "calibrator": {"kind": "logistic", "slope": 1.2, "bias": 0.4},   or "isotonic", "decided"
                 "threshold": 0.83},
                {"pool": "large", "model": "jlab-large"}],                        the last one has no signal
     "expected": {"quality": 0.98, "cost_usd": 1e-5, "share:small": 0.6, "share:large": 0.4, ...},
     "data": {"digest": "...", "queries": 4000, ...}}

Shares in `expected` are of the queries that each level answers; `reach:<pool>` of those that call it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import Any, Final

from serve_app.cascade.base import Chain, Level
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.specs import calibrator_of, parts_of, signal_of, spec_of
from serve_app.errors import ConfigError, writing
from serve_app.files import write_whole
from serve_app.learning.encoder import saved_encoder
from serve_app.learning.saved_folder import read_json

FILE: Final = "chain.json"
FORMAT: Final = 1
_KIND: Final = "cascade"
_MOST_TOKENS: Final = 10_000
_REMEDY: Final = "give the folder of a fitted cascade; `jethro cascade fit` writes one"
_KEYS: Final = frozenset({"kind", "format", "version", "target", "probe_tokens", "levels", "expected", "data"})
_LEVEL_KEYS: Final = frozenset({"pool", "model", "signal", "calibrator", "threshold"})


@dataclass(frozen=True, slots=True)
class FittedChain:
    """A chain and its origin: the target as written, and figures of the data (digest, queries, ...)."""

    chain: Chain
    target: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def version_of(levels: tuple[Level, ...], probe_tokens: int | None) -> str:
    """`cascade-` and a hash of all that decides: the same chain has the same version wherever it was fitted."""
    return _version([_level_spec(level, "") for level in levels], probe_tokens)


def save_chain(fitted: FittedChain, folder: Path) -> None:
    """Write `chain.json`; a reader never sees half of it. Raises ConfigError where the folder cannot be written."""
    chain = fitted.chain
    models = chain.models or ("",) * len(chain.levels)
    levels = [_level_spec(level, model) for level, model in zip(chain.levels, models, strict=True)]
    body: dict[str, Any] = {"kind": _KIND, "format": FORMAT, "version": chain.version, "target": fitted.target}
    body |= {"probe_tokens": chain.probe_tokens, "levels": levels}
    body |= {"expected": dict(chain.expected), "data": dict(fitted.data)}
    path = folder / FILE
    with writing(path, "give a folder that can"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_chain(folder: Path) -> Chain:
    """The chain saved there, encoders checked. Raises ConfigError naming the file, the key and what to do."""
    return load_fitted(folder).chain


def load_fitted(folder: Path) -> FittedChain:
    """The chain saved there, with its target and data. Raises ConfigError naming the file, the key and what to do."""
    path = folder / FILE
    body = read_json(path, kind=_KIND, version=FORMAT, remedy=_REMEDY)
    unknown = set(body) - _KEYS
    if unknown or "levels" not in body:
        what = f"{sorted(unknown)[0]} is no key of a chain" if unknown else "levels is missing"
        raise ConfigError(f"{path}: {what}; fit the cascade again")
    levels, models = _levels(path, body["levels"])
    probe_tokens = body.get("probe_tokens")
    if probe_tokens is not None and (type(probe_tokens) is not int or not 1 <= probe_tokens <= _MOST_TOKENS):
        raise ConfigError(f"{path}: probe_tokens is not null or a whole number from 1 to {_MOST_TOKENS}; fix it")
    version = _version(body["levels"], probe_tokens)
    if body.get("version") != version:
        raise ConfigError(
            f"{path}: version is {body.get('version')!r}, but this content is {version}: it was changed by hand; fit "
            "the cascade again, or write that version if the change is meant"
        )
    expected = body.get("expected", {})
    if not isinstance(expected, dict) or not all(_is_number(v) for v in expected.values()):
        raise ConfigError(f"{path}: expected must be an object of numbers; fit the cascade again")
    data = body.get("data") or {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: data must be an object; fit the cascade again")
    chain = Chain(levels, version, {str(k): float(v) for k, v in expected.items()}, probe_tokens, models)
    return FittedChain(chain, str(body.get("target", "")), dict(data))


def chain_of(levels: Any, where: str, probe_tokens: int | None = None) -> Chain:
    """The chain of levels written as in a chain.json, not fitted as a whole. Raises ConfigError naming `where`."""
    found, models = _levels(where, levels)
    return Chain(found, _version(levels, probe_tokens), {}, probe_tokens, models)


def _levels(path: Path | str, specs: Any) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    if not isinstance(specs, list) or not specs:
        raise ConfigError(f"{path}: levels must be a list of at least one level; fit the cascade again")
    levels, models = [], []
    for number, spec in enumerate(specs):
        where = f"{path}: levels[{number}]"
        named = isinstance(spec, dict) and isinstance(spec.get("pool"), str) and spec["pool"] != ""
        if not named or set(spec) - _LEVEL_KEYS:
            raise ConfigError(f"{where}: must have pool, and no keys but {', '.join(sorted(_LEVEL_KEYS))}")
        levels.append(_level(where, spec, last=number == len(specs) - 1))
        models.append(str(spec.get("model") or ""))
    pools = [level.pool for level in levels]
    if len(set(pools)) < len(pools):
        raise ConfigError(f"{path}: levels name a pool twice ({', '.join(pools)}); fit the cascade again")
    return tuple(levels), tuple(models) if any(models) else ()


def _level(where: str, spec: Mapping[str, Any], last: bool) -> Level:
    present = {key for key in ("signal", "calibrator", "threshold") if spec.get(key) is not None}
    if last:
        if keys := ", ".join(sorted(present)):
            raise ConfigError(f"{where}: the last level's answer is always taken; it has no {keys}")
        return Level(spec["pool"])
    if len(present) < 3:
        raise ConfigError(f"{where}: a level before the last needs signal, calibrator and threshold")
    threshold = spec["threshold"]
    if not _is_number(threshold) or threshold < 0:
        raise ConfigError(f"{where}.threshold: is {threshold!r}; give a number from 0 (above 1: never taken)")
    signal = signal_of(spec["signal"], f"{where}.signal")
    for part in parts_of(signal):
        if isinstance(part, AnswerScorer):
            saved_encoder(f"{where}: answer_scorer", part.encoder, part.digest)
    return Level(spec["pool"], signal, calibrator_of(spec["calibrator"], f"{where}.calibrator"), float(threshold))


def _level_spec(level: Level, model: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"pool": level.pool}
    if model:
        spec["model"] = model
    if level.signal is not None and level.calibrator is not None:
        spec |= {"signal": spec_of(level.signal), "calibrator": spec_of(level.calibrator)}
        spec["threshold"] = level.threshold
    return spec


def _version(levels: Any, probe_tokens: int | None) -> str:
    decides = [{key: value for key, value in level.items() if key != "model"} for level in levels]
    text = json.dumps([decides, probe_tokens], sort_keys=True)
    return f"cascade-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=5).hexdigest()}"


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= float_info.max if isinstance(value, int) else isfinite(value)
