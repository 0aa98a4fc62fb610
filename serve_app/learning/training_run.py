"""All that determines a trained router: kind, parameters, data, seed, folds, target. Written beside every artefact.

Training again from the file gives the same router, and so the same version; where the data or the libraries are not
those of the first time, it says so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from serve_app.errors import ConfigError

FILE = "run.json"
BESIDE = ("libraries", "calibrated")
"""Keys of a run.json that tell of the artefact and take no part in training."""
_LIBRARIES = ("jethro", "numpy", "scikit-learn", "torch", "transformers")
"""Those whose version may change what is learned."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training, as an operator may write it (YAML or JSON) and as the artefact keeps it."""

    kind: str
    data: str
    """Path of the dataset."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The router's constructor arguments."""
    preferences: str | None = None
    """Path of further battles, for routers that learn from preferences."""
    weak: str = "small"
    strong: str = "large"
    """The dataset's pools that the router chooses between."""
    seed: int = 0
    """Draws the folds."""
    folds: int = 5
    """Scores for threshold and figures: cross-fitted over so many folds, or of one fifth that is held back (1)."""
    target: str = "quality-drop=0.01"
    """What the threshold is calibrated to."""
    digest: str = ""
    """Hash of the data; empty in a file that was written by hand."""

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ConfigError(f"folds is {self.folds}: give 2 or more to cross-fit, or 1 to hold a fifth back")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run in a YAML or JSON file, or in the run.json of an artefact. Raises ConfigError naming file and key."""
        body = _body(path)
        known = [f.name for f in fields(cls)]
        for key, value in body.items():
            if key not in known:
                raise ConfigError(f"{path}: unknown key {key!r}; there are {', '.join(known)}")
            if not _fits(key, value):
                raise ConfigError(f"{path}: {key} is {value!r}, of the wrong type; see the run.json of an artefact")
        missing = [key for key in ("kind", "data") if key not in body]
        if missing:
            raise ConfigError(f"{path}: {missing[0]} is missing; see the run.json of an artefact")
        return cls(**body)

    def to_json(self) -> dict[str, Any]:
        """What an artefact's run.json keeps: the run, and the versions of the libraries at hand."""
        return {**asdict(self), "libraries": libraries()}


def changed_libraries(path: Path) -> list[str]:
    """Libraries whose version is not that in a run's file, as `name was -> is`; empty where it names none."""
    now = libraries()
    before = _read(path).get("libraries") or {}
    return [f"{name} {was} -> {now.get(name, 'none')}" for name, was in before.items() if now.get(name) != was]


def libraries() -> dict[str, str]:
    """Versions of the libraries that take part in training; those that are missing are left out."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_run(folder: Path) -> dict[str, Any]:
    """What an artefact's run.json tells; empty for one that ships without."""
    path = folder / FILE
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        body = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: cannot be read ({e}); give the run.json of an artefact, or one like it") from e
    if isinstance(body, dict) and isinstance(body.get("run"), dict):
        body = body["run"]
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: must hold an object with kind and data")
    return body


def _body(path: Path) -> dict[str, Any]:
    """The run's own keys: what is told beside them (libraries, a later calibration) makes no router."""
    return {key: value for key, value in _read(path).items() if key not in BESIDE}


def _fits(key: str, value: object) -> bool:
    if key == "params":
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if key in ("seed", "folds"):
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or (key == "preferences" and value is None)
