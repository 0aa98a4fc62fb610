"""Routers by name or folder. An artefact is a folder: what the router saved, its card, and its calibration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigError
from serve_app.routing.artefact import read_json
from serve_app.routing.base import Router
from serve_app.routing.threshold import Calibration, Threshold

KINDS: Mapping[str, str] = {
    "random": "serve_app.routing.random:RandomRouter",
    "complexity": "serve_app.routing.complexity:ComplexityRouter",
}
"""Kind to class; imported when asked for, so that a heavy router costs nobody else its imports."""

CARD_FORMAT = 1


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

    def calibrated(self, *, strong_share: float | None = None, max_quality_drop: float | None = None) -> float:
        """The threshold for one of: a share of strong calls, a quality target. Raises ConfigError without data."""
        if self.uniform and strong_share is not None:
            return 1.0 - strong_share
        if self.calibration is None:
            raise ConfigError(
                f"routing: router {self.router.name} has no calibration data for this target: "
                "set routing.threshold, or train and calibrate the router"
            )
        if strong_share is not None:
            return Threshold.for_share(self.calibration, strong_share).value
        if max_quality_drop is not None:
            return Threshold.for_drop(self.calibration, max_quality_drop).value
        raise ValueError("one of strong_share and max_quality_drop must be given")


def artefacts_dir() -> Path:
    """Folder of the routers that ship with the package."""
    return Path(str(resources.files("serve_app.routing"))) / "artefacts"


def router_names() -> list[str]:
    """Names of all registered routers; `random` needs no artefact."""
    shipped = {f.parent.name for f in artefacts_dir().glob("*/card.json")}
    return sorted(shipped | {"random"})


def load_router(name_or_folder: str, *, seed: int = 0) -> Registered:
    """A registered router by name, or the one in a folder. `seed` is that of `random` by name.

    Raises ConfigError naming what is registered, or the file and the mend.
    """
    if name_or_folder == "random":
        from serve_app.routing.random import RandomRouter

        return Registered(RandomRouter(seed), 0.5, f"random-{seed}", uniform=True)
    folder = artefacts_dir() / name_or_folder if name_or_folder in router_names() else Path(name_or_folder)
    if not folder.is_dir():
        raise ConfigError(
            f"routing.router: no router {name_or_folder!r}: give one of {', '.join(router_names())} "
            "or the folder of a saved router"
        )
    return _load_folder(folder)


def _load_folder(folder: Path) -> Registered:
    card = read_json(folder / "card.json", version=CARD_FORMAT)
    kind = str(card.get("kind"))
    if kind not in KINDS:
        raise ConfigError(f"{folder / 'card.json'}: kind is {kind!r}; this version knows {', '.join(KINDS)}")
    module, _, cls = KINDS[kind].partition(":")
    router: Router = getattr(import_module(module), cls).load(folder)
    try:
        return Registered(
            router=router,
            threshold=float(card["threshold"]),
            version=str(card["version"]),
            models=(card["models"]["weak"], card["models"]["strong"]),
            calibration=Calibration.load(folder / "calibration.npz"),
            card=card,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigError(f"{folder / 'card.json'}: incomplete or malformed ({e!r}); register the router again") from e


def save_registered(
    folder: Path,
    router: Router,
    calibration: Calibration,
    threshold: Threshold,
    models: tuple[str, str],
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write an artefact that `load_router` reads; gives its version, a hash of what the router saved."""
    router.save(folder)
    calibration.save(folder / "calibration.npz")
    digest = blake2b(digest_size=4)
    for file in sorted(f for f in folder.iterdir() if f.is_file() and f.name != "card.json"):
        digest.update(file.name.encode() + file.read_bytes())
    version = f"{router.name}-{digest.hexdigest()}"
    card = {
        "format": CARD_FORMAT,
        "kind": router.name,
        "version": version,
        "models": {"weak": models[0], "strong": models[1]},
        "threshold": threshold.value,
        "target": threshold.target,
        "data": dict(data),
        "metrics": {name: _rounded(value) for name, value in metrics.items()},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return version


def _rounded(value: float | Sequence[float]) -> float | list[float]:
    return round(value, 6) if isinstance(value, (int, float)) else [round(v, 6) for v in value]
