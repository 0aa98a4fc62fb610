"""The folder of a saved router: what the router wrote, its card, its calibration; read with checks, written whole.

An artefact is data from elsewhere: before any file of it is read, `learning.saved_folder` checks it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from serve_app.arrays import read_arrays
from serve_app.decision.target import Guarantee, Method, quality_range
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.learning.saved_folder import check_folder, read_json
from serve_app.routing.base import Placement, Router
from serve_app.routing.drift import Inputs

T = TypeVar("T")

CARD_FORMAT = 1
ROUTER_FORMAT = 1
PROMISING = ("held out", "fresh")
"""How a calibration's scores were made, in a card's data, if they are those of the router that serves."""
INPUTS = "inputs.npz"


@dataclass(frozen=True, slots=True)
class Registered:
    """A saved router, loaded. `models` are the (weak, strong) model ids whose answers it was trained on."""

    loaded: Router | type[Router]
    """The router; its class where only the Scorer loads the weights."""
    threshold: float
    version: str
    models: tuple[str, str] | None = None
    calibration: Calibration | None = None
    uniform: bool = False
    """Whether scores are uniform on [0, 1] whatever the traffic, so that a share needs no calibration data."""
    card: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs | None = None
    """What the calibration queries look like; None where the artefact does not say."""
    name: str = ""
    """Its name in requests and decisions; the kind where it was loaded from a folder."""

    @property
    def router(self) -> Router:
        """The router. Raises ConfigError where only the Scorer loads the weights."""
        if isinstance(self.loaded, type):
            raise ConfigError(f"router {self.name} is loaded by the Scorer, not in this process")
        return self.loaded

    @property
    def remote(self) -> bool:
        """Whether only the Scorer loads the weights."""
        return isinstance(self.loaded, type)

    def calibrated(
        self,
        *,
        strong_share: float | None = None,
        max_quality_drop: float | None = None,
        guarantee: Method | None = None,
        delta: float = 0.1,
    ) -> float:
        """The threshold for either a share of strong calls or a quality target, with a guarantee or without.

        Raises ConfigError without data for it, or where the data support no guarantee.
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
        """Scores of other routers than the one that serves (cross-fitting) support no guarantee."""
        data = self.card.get("data", {})
        if data.get("calibration") not in PROMISING:
            raise ConfigError(
                f"routing.guarantee: the calibration of {self.name} ({self.version}) is "
                f"{data.get('calibration', 'of unknown origin')}, which supports no guarantee: calibrate it on "
                "queries that it has not learned from, with `jethro router calibrate`"
            )
        return Guarantee(method, delta, quality_range(data))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an artefact, its format checked. Raises ConfigError naming the file and what to do."""
    return read_json(folder / "card.json", version=CARD_FORMAT)


def load_artefact(
    folder: Path, kinds: Mapping[str, str], name: str = "", *, remote: Collection[Placement] = ()
) -> Registered:
    """The router saved in `folder`; `kinds` maps kind to `module:class`. The Scorer loads those placed in `remote`.

    Raises ConfigError naming the file and what to do.
    """
    check_folder(folder)
    card = read_card(folder)
    router_class = class_of(folder, card, kinds)
    router = router_class if router_class.placement in remote else router_class.load(folder)
    try:
        threshold = float(card["threshold"])
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold {threshold} is not in [0, 1]")
        return Registered(
            loaded=router,
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


def own_threshold(folder: Path) -> float:
    """The threshold of an artefact's card. Raises ConfigError naming the file and what to do."""
    threshold = read_card(folder).get("threshold")
    if not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise ConfigError(
            f"{folder / 'card.json'}: threshold is {threshold!r}, not in [0, 1]; register the router again"
        )
    return float(threshold)


def class_of(folder: Path, card: Mapping[str, Any], kinds: Mapping[str, str]) -> type[Router]:
    """The class of an artefact's router. Raises ConfigError for a kind that is not known."""
    kind = card.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{folder / 'card.json'}: kind is {kind!r}; this version knows {', '.join(kinds)}")
    return class_of_kind(kinds[kind])


def class_of_kind(where: str) -> type[Router]:
    """The class written as `module:class`."""
    module, _, name = where.partition(":")
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
    """Write an artefact that `load_artefact` reads. Returns its version, a hash of all that was written."""
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
    """Floats with six decimals; other values unchanged."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {str(name): _rounded(v) for name, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(v) for v in value]
    return value


class RouterFiles:
    """The folder of a saved router while it is read; `path` is the file that an error names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "router.json"

    def at(self, name: str) -> Path:
        """The next file to be read."""
        self.path = self.folder / name
        return self.path

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """All arrays of an npz file. Raises what `read_arrays` raises."""
        return read_arrays(self.at(name))


class LearnedRouter:
    """What all kinds share: parameters named as in the constructor, and a folder with `router.json`.

    A kind adds `fit`, `score`, `explain`, and `save`, which calls `_write`; `_restore` reads what `save` wrote.
    """

    name: str
    placement: Placement = "batched"

    @property
    def params(self) -> Mapping[str, Any]:
        """See Router."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See Router."""
        files = RouterFiles(directory)
        body = read_json(files.path, kind=cls.name, version=ROUTER_FORMAT)
        try:
            router = cls._unfitted(body)
            router._restore(body, files)
        except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise ConfigError(f"{files.path}: cannot be read ({e!r}); train and save the router again") from e
        return router

    @classmethod
    def _unfitted(cls, body: Mapping[str, Any]) -> Self:
        return cls(**body["params"])

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        """Set the learned values. Raises ConfigError, or what a malformed file raises, which `load` turns into it."""

    def _write(self, directory: Path, body: Mapping[str, Any], **layout: Any) -> None:
        """Write `router.json`; `layout` as `json.dumps` takes it."""
        directory.mkdir(parents=True, exist_ok=True)
        whole = {"format": ROUTER_FORMAT, "kind": self.name, **body}
        (directory / "router.json").write_text(json.dumps(whole, **layout) + "\n", "utf-8")

    def _need(self, learned: T | None, act: str) -> T:
        """The learned value. Raises ConfigError before `fit` or `load`."""
        if learned is None:
            raise ConfigError(f"{self.name}: the router is not fitted; fit or load it before {act}")
        return learned
