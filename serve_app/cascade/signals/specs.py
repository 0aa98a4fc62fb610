"""Signals and calibrators as JSON-ready specs, such as `{"name": "quantile_logprob", "quantile": 0.1}`.

A spec has the name of the signal, or the kind of the calibrator, and its fields; signals may hold others.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.base import Calibrator, Signal
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.calibration import BinnedAcceptance, IsotonicCalibrator, LogisticCalibrator
from serve_app.cascade.signals.combined import Combined, CostAware
from serve_app.cascade.signals.consistency import AnswerAgreement, SelfVerification
from serve_app.cascade.signals.tokens import (
    Brevity,
    Entropy,
    Margin,
    MeanLogprob,
    MinLogprob,
    Prior,
    QuantileLogprob,
    RecordedConfidence,
    SumLogprob,
)
from serve_app.errors import ConfigError

_TOKENS: Final = (MeanLogprob, MinLogprob, QuantileLogprob, SumLogprob, Margin, Entropy, Brevity)
_OTHERS: Final = (Prior, AnswerAgreement, SelfVerification, RecordedConfidence)
UNTRAINED: Final[Mapping[str, Callable[..., Signal]]] = {kind.name: kind for kind in (*_TOKENS, *_OTHERS)}
"""Signals that need no fit, by name; their parameters are those of the classes."""
_SIGNALS: Final[Mapping[str, Any]] = {**UNTRAINED, **{kind.name: kind for kind in (AnswerScorer, Combined, CostAware)}}
_KINDS: Final = (LogisticCalibrator, IsotonicCalibrator, BinnedAcceptance)
_CALIBRATORS: Final[Mapping[str, Any]] = {kind.kind: kind for kind in _KINDS}


def signal_of(spec: Any, where: str) -> Signal:
    """The signal of a spec. Raises ConfigError naming `where` it is, the key and the signals known."""
    found: Signal = _read(spec, "name", _SIGNALS, where)
    return found


def calibrator_of(spec: Any, where: str) -> Calibrator:
    """The calibrator of a spec. Raises ConfigError naming `where` it is, the key and the calibrators known."""
    found: Calibrator = _read(spec, "kind", _CALIBRATORS, where)
    return found


def spec_of(made: Signal | Calibrator) -> dict[str, Any]:
    """A signal or calibrator as its spec."""
    key, known = ("kind", _CALIBRATORS) if hasattr(made, "kind") else ("name", _SIGNALS)
    name = getattr(made, key, "")
    if known.get(name) is not type(made):
        raise TypeError(f"{made!r} is none of our {key}s")
    return {key: name, **{f.name: _written(getattr(made, f.name)) for f in fields(known[name])}}


def parts_of(signal: Signal) -> tuple[Signal, ...]:
    """The signals that it is made of, itself if it is made of none."""
    if isinstance(signal, CostAware):
        return parts_of(signal.signal)
    if isinstance(signal, Combined):
        return tuple(part for s in signal.signals for part in parts_of(s))
    return (signal,)


def with_prior_of(signal: Signal, router: str) -> Signal:
    """The same signal with the score of another router, a reference, wherever it reads one."""

    def changed(spec: Any) -> Any:
        if isinstance(spec, list):
            return [changed(one) for one in spec]
        if not isinstance(spec, dict):
            return spec
        found = {key: changed(value) for key, value in spec.items()}
        return found | {"router": router} if spec.get("name") == Prior.name else found

    return signal_of(changed(spec_of(signal)), "signal")


def _written(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return value if isinstance(value, int | float | str) else spec_of(value)


def _read(spec: Any, key: str, known: Mapping[str, Any], where: str) -> Any:
    name = spec.get(key) if isinstance(spec, Mapping) else None
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where}: {key} is {name!r}; known are {', '.join(known)}")
    types = {f.name: f.type for f in fields(known[name])}
    required = {f.name for f in fields(known[name]) if f.default is MISSING}
    given = {k: v for k, v in spec.items() if k != key}
    if not required <= given.keys() <= types.keys():
        keys = ", ".join(sorted(types)) or "no keys"
        raise ConfigError(f"{where}: {name} has {keys}, not {sorted(given)}; fit the cascade again")
    try:
        return known[name](**{k: _value(v, types[k], f"{where}.{k}") for k, v in given.items()})
    except (TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"{where}: {name} cannot be read ({e}); fit the cascade again") from e
    except ConfigError as e:
        raise e if str(e).startswith(where) else ConfigError(f"{where}: {e}") from e


def _value(value: Any, kind: Any, where: str) -> Any:
    """A JSON value as the type of its field. Raises TypeError, ValueError, OverflowError or ConfigError."""
    if kind is Signal:
        return signal_of(value, where)
    if kind is Calibrator:
        return calibrator_of(value, where)
    if kind == tuple[Signal, ...]:
        return tuple(signal_of(one, f"{where}[{i}]") for i, one in enumerate(value))
    if kind == Floats:
        return np.array(value, dtype=np.float64)
    for one in (float, bool):
        if kind == tuple[one, ...]:  # type: ignore[valid-type]
            return tuple(map(one, value))
    return float(value) if kind is float and not isinstance(value, str) else value
