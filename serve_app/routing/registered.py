"""A router ready to serve, and the folder that it is saved in: what the router saved, its card, its calibration.

A router whose weights another process holds: its name and placement, for the one that decides with its scores.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.decision.target import Guarantee, Method, quality_range
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.routing.artefact import check_folder, read_json
from serve_app.routing.base import Placement, Report, Router, silent
from serve_app.routing.drift import Inputs
from serve_app.types import Query


class Elsewhere:
    """Stands for a router whose weights only the Scorer holds."""

    def __init__(self, name: str, placement: Placement) -> None:
        self.name = name
        self.placement = placement

    params: Mapping[str, Any] = {}

    def fit(self, dataset: Any, report: Report = silent) -> Self:
        """Raises ConfigError."""
        raise self._error()

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Raises ConfigError."""
        raise self._error()

    def explain(self, query: Query) -> Mapping[str, float]:
        """Nothing is known of it here."""
        return {}

    def save(self, directory: Any) -> None:
        """Raises ConfigError."""
        raise self._error()

    @classmethod
    def load(cls, directory: Any) -> Self:
        """Raises ConfigError."""
        raise ConfigError("a router that is elsewhere is loaded by the Scorer")

    def _error(self) -> ConfigError:
        return ConfigError(f"router {self.name} is loaded by the Scorer, not here")


CARD_FORMAT = 1
PROMISING = ("held out", "fresh")
"""How a calibration's scores were made, in a card's data, if they are those of the router that serves."""
INPUTS = "inputs.npz"


@dataclass(frozen=True, slots=True)
class Registered:
    """A router ready to serve. `models` are the (weak, strong) model ids whose answers it was trained on."""

    router: Router
    threshold: float
    version: str
    models: tuple[str, str] | None = None
    calibration: Calibration | None = None
    uniform: bool = False
    """Whether scores are uniform on [0, 1] whatever the traffic, so that a share needs no calibration data."""
    card: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs | None = None
    """What the calibration queries look like; None where the artefact does not tell."""
    name: str = ""
    """What callers and decisions call it; the kind where it was loaded from a folder."""

    def calibrated(
        self,
        *,
        strong_share: float | None = None,
        max_quality_drop: float | None = None,
        guarantee: Method | None = None,
        delta: float = 0.1,
    ) -> float:
        """The threshold for one of: a share of strong calls, a quality target (which a guarantee may promise).

        Raises ConfigError without data for it, or where they can promise nothing.
        """
        if self.uniform and strong_share is not None:
            return 1.0 - strong_share
        if self.calibration is None:
            raise ConfigError(
                f"routing: router {self.name} has no calibration data for this target: "
                "set routing.threshold, or train and calibrate the router"
            )
        if strong_share is not None:
            return Threshold.for_share(self.calibration, strong_share).value
        if max_quality_drop is not None:
            if guarantee is None:
                return Threshold.for_drop(self.calibration, max_quality_drop).value
            return self._guarantee(guarantee, delta).threshold(self.calibration, max_quality_drop)
        raise ValueError("one of strong_share and max_quality_drop must be given")

    def _guarantee(self, method: Method, delta: float) -> Guarantee:
        """Scores by other routers than the one that serves (cross-fitting) are no ground for a promise."""
        data = self.card.get("data", {})
        if data.get("calibration") not in PROMISING:
            raise ConfigError(
                f"routing.guarantee: the calibration of {self.name} ({self.version}) is "
                f"{data.get('calibration', 'of unknown making')}, on which nothing can be promised: calibrate it on "
                "queries that it has not learned from, with `jethro router calibrate`"
            )
        return Guarantee(method, delta, quality_range(data))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an artefact, its format checked. Raises ConfigError naming the file and the mend."""
    return read_json(folder / "card.json", version=CARD_FORMAT)


def load_artefact(
    folder: Path, kinds: Mapping[str, str], name: str = "", *, elsewhere: Collection[Placement] = ()
) -> Registered:
    """The router saved in `folder`; `kinds` maps kind to `module:class`. Raises ConfigError with file and mend.

    The weights of routers of the placements `elsewhere` are not loaded: the Scorer holds them.
    """
    check_folder(folder)
    card = read_card(folder)
    router_class = class_of(folder, card, kinds)
    there = router_class.placement in elsewhere
    router: Router = Elsewhere(router_class.name, router_class.placement) if there else router_class.load(folder)
    try:
        threshold = float(card["threshold"])
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold {threshold} is not in [0, 1]")
        return Registered(
            router=router,
            threshold=threshold,
            version=str(card["version"]),
            models=(str(card["models"]["weak"]), str(card["models"]["strong"])),
            calibration=Calibration.load(folder / "calibration.npz"),
            card=card,
            inputs=Inputs.load(folder / INPUTS) if (folder / INPUTS).is_file() else None,
            name=name or router.name,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigError(f"{folder / 'card.json'}: incomplete or malformed ({e!r}); register the router again") from e


def class_of(folder: Path, card: Mapping[str, Any], kinds: Mapping[str, str]) -> type[Router]:
    """The class of an artefact's router. Raises ConfigError for a kind that is not known."""
    kind = card.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{folder / 'card.json'}: kind is {kind!r}; this version knows {', '.join(kinds)}")
    module, _, name = kinds[kind].partition(":")
    found: type[Router] = getattr(import_module(module), name)
    return found


def save_registered(
    folder: Path,
    router: Router,
    calibration: Calibration,
    threshold: Threshold,
    models: tuple[str, str],
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write an artefact that `load_artefact` reads; gives its version, a hash of all that was written."""
    router.save(folder)
    calibration.save(folder / "calibration.npz")
    card = {
        "format": CARD_FORMAT,
        "kind": router.name,
        "version": "",
        "models": {"weak": models[0], "strong": models[1]},
        "threshold": threshold.value,
        "target": threshold.target,
        "data": dict(data),
        "metrics": {name: _rounded(value) for name, value in metrics.items()},
    }
    digest = blake2b(json.dumps(card).encode(), digest_size=4)
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name not in ("card.json", "run.json")):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    card["version"] = f"{router.name}-{digest.hexdigest()}"
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return str(card["version"])


def _rounded(value: Any) -> Any:
    """Figures with six places; what is no figure as it is."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {str(name): _rounded(v) for name, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(v) for v in value]
    return value
