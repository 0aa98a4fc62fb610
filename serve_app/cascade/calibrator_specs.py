"""Calibrators by kind, and as JSON-ready specs: `{"kind": "logistic", "slope": 1.2, "bias": 0.4}`."""

from typing import Any, Final

from serve_app.cascade.base import Calibrator
from serve_app.cascade.calibration import IsotonicCalibrator, LogisticCalibrator
from serve_app.cascade.decided import DecidedCalibrator
from serve_app.errors import ConfigError

_CALIBRATORS: Final = {c.kind: c for c in (LogisticCalibrator, IsotonicCalibrator, DecidedCalibrator)}


def calibrator_of(spec: Any, where: str) -> Calibrator:
    """The calibrator of a spec. Raises ConfigError naming `where` it stands and what there is."""
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if not isinstance(kind, str) or kind not in _CALIBRATORS:
        raise ConfigError(f"{where}: kind is {kind!r}; the calibrators are {', '.join(_CALIBRATORS)}")
    try:
        found: Calibrator = _CALIBRATORS[kind].of(spec)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"{where}: cannot be read ({e}); fit the cascade again") from e
    return found


def calibrator_spec(calibrator: Calibrator) -> dict[str, Any]:
    """A calibrator as its spec; `calibrator_of` reads it."""
    if not isinstance(calibrator, LogisticCalibrator | IsotonicCalibrator | DecidedCalibrator):
        raise TypeError(f"{calibrator!r} is none of our calibrators")
    return calibrator.spec()
