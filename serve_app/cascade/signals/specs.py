"""Signals by name, and as JSON-ready specs: `{"name": "quantile_logprob", "quantile": 0.1}`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Final

from serve_app.cascade.base import Signal
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.calibration import calibrator_of, calibrator_spec
from serve_app.cascade.signals.combined import Combined, CostAware, RelativeCost, combined_spec, cost_aware_spec
from serve_app.cascade.signals.consistency import Agreement, SelfVerification
from serve_app.cascade.signals.tokens import (
    Brevity,
    Entropy,
    Margin,
    MeanLogprob,
    MinLogprob,
    Prior,
    QuantileLogprob,
    SumLogprob,
)
from serve_app.errors import ConfigError

UNTRAINED: Final[Mapping[str, Callable[..., Signal]]] = {
    "mean_logprob": MeanLogprob,
    "min_logprob": MinLogprob,
    "quantile_logprob": QuantileLogprob,
    "sum_logprob": SumLogprob,
    "margin": Margin,
    "entropy": Entropy,
    "brevity": Brevity,
    "prior": Prior,
    "agreement": Agreement,
    "self_verification": SelfVerification,
}
"""Signals that need no fit, by name; their parameters are those of the classes."""
TRAINED: Final = ("answer_scorer", "combined", "cost_aware")


def signal_of(spec: Mapping[str, Any], where: str) -> Signal:
    """The signal of a spec. Raises ConfigError naming `where` it stands, the key and what there is."""
    name = spec.get("name") if isinstance(spec, Mapping) else None
    if not isinstance(name, str) or (name not in UNTRAINED and name not in TRAINED):
        raise ConfigError(f"{where}: name is {name!r}; the signals are {', '.join((*UNTRAINED, *TRAINED))}")
    params = {key: value for key, value in spec.items() if key != "name"}
    try:
        if name == AnswerScorer.name:
            return AnswerScorer.of(spec)
        if name == Combined.name:
            return _combined(params, where)
        if name == CostAware.name:
            return _cost_aware(params, where)
        return UNTRAINED[str(name)](**params)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"{where}: {name} cannot be made of {sorted(params)} ({e}); fit the cascade again") from e
    except ConfigError as e:
        raise e if str(e).startswith(where) else ConfigError(f"{where}: {e}") from e


def spec_of(signal: Signal) -> dict[str, Any]:
    """A signal as its spec; `signal_of` reads it."""
    if isinstance(signal, Combined):
        return combined_spec(signal, [spec_of(s) for s in signal.signals])
    if isinstance(signal, AnswerScorer):
        return signal.spec()
    if isinstance(signal, CostAware):
        return cost_aware_spec(signal, spec_of(signal.signal), calibrator_spec(signal.calibrator))
    if not is_dataclass(signal) or isinstance(signal, type):
        raise TypeError(f"{signal!r} is none of our signals")
    return {"name": signal.name, **asdict(signal)}


def parts_of(signal: Signal) -> tuple[Signal, ...]:
    """The signals that it is made of, itself if it is made of none."""
    if isinstance(signal, CostAware):
        return parts_of(signal.signal)
    if isinstance(signal, Combined):
        return tuple(part for s in signal.signals for part in parts_of(s))
    return (signal,)


def _cost_aware(params: Mapping[str, Any], where: str) -> CostAware:
    known = {"signal", "calibrator", "base", "per_character"}
    if set(params) != known:
        raise ConfigError(f"{where}: a cost_aware signal has {', '.join(sorted(known))}; fit the cascade again")
    return CostAware(
        signal_of(params["signal"], f"{where}.signal"),
        calibrator_of(params["calibrator"], f"{where}.calibrator"),
        RelativeCost(float(params["base"]), float(params["per_character"])),
    )


def _combined(params: Mapping[str, Any], where: str) -> Combined:
    known = {"signals", "means", "scales", "weights", "bias"}
    if set(params) != known or not isinstance(params["signals"], list):
        raise ConfigError(f"{where}: a combined signal has {', '.join(sorted(known))}; fit the cascade again")
    return Combined(
        signals=tuple(signal_of(s, f"{where}.signals[{i}]") for i, s in enumerate(params["signals"])),
        means=tuple(map(float, params["means"])),
        scales=tuple(map(float, params["scales"])),
        weights=tuple(map(float, params["weights"])),
        bias=float(params["bias"]),
    )
