"""Routers by name and version: a folder that training writes to and serving reads while it is written to.

    <folder>/<name>/<version>/   an artefact (see `artefact`) and run.json; never changed once it is there
    <folder>/<name>/current      the version that serves, and if one was given its threshold; see `thresholds`
    <folder>/default             the name that serves where the config names no router; replaced whole

Routers that ship with the package are listed too, under a version of their own; `random` needs no artefact.
"""

import json
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError, reading
from serve_app.files import write_whole
from serve_app.learning.encoder import loaded_encoder
from serve_app.learning.saved_folder import check_folder
from serve_app.routing.artefact import (
    INPUTS,
    Registered,
    class_of,
    load_artefact,
    own_threshold,
    read_card,
    save_registered,
)
from serve_app.routing.base import Placement, Router
from serve_app.routing.drift import Inputs
from serve_app.routing.thresholds import (
    ChosenThreshold,
    ThresholdChange,
    add_to_history,
    locked,
    read_chosen,
    write_chosen,
)
from serve_app.types import Query

KINDS: Mapping[str, str] = {
    "random": "serve_app.routing.kinds.random:RandomRouter",
    "complexity": "serve_app.routing.kinds.complexity.router:ComplexityRouter",
    "mf": "serve_app.routing.kinds.matrix_factorization.router:MatrixFactorizationRouter",
    "sw_ranking": "serve_app.routing.kinds.similarity_weighted.router:SimilarityWeightedRouter",
    "causal_llm": "serve_app.routing.kinds.causal_llm.router:CausalLlmRouter",
    "bert": "serve_app.routing.kinds.fine_tuned.routers:BertRouter",
    "hybrid_det": "serve_app.routing.kinds.fine_tuned.routers:HybridDet",
    "hybrid_prob": "serve_app.routing.kinds.fine_tuned.routers:HybridProb",
    "hybrid_trans": "serve_app.routing.kinds.fine_tuned.routers:HybridTrans",
    "knn": "serve_app.routing.kinds.knn.router:KnnRouter",
    "estimator": "serve_app.routing.kinds.estimator:EstimatorRouter",
    "stacked": "serve_app.routing.kinds.stacked.router:StackedRouter",
    "best_route": "serve_app.routing.kinds.best_route:BestRouteRouter",
}
"""Kind to class; imported on first use, so that a process imports the libraries of its own routers only."""

RANDOM = "random"
RANDOM_THRESHOLD = 0.5
"""Of `random` by itself: half of the queries."""
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Registry:
    """The routers of one folder, which need not exist yet. `seed` is that of `random`. Safe for many processes."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self._seed = seed

    def names(self) -> list[str]:
        """All names that can be loaded: registered, shipped, and `random`."""
        own = [f.name for f in _folders(self.folder) if _NAME.fullmatch(f.name) and self._versions(f.name)]
        return sorted({*own, *router_names()})

    def versions(self, name: str) -> list[str]:
        """Versions of a name, oldest first; the shipped one before all. Raises ConfigError for an unknown name."""
        if name == RANDOM:
            return [f"{RANDOM}-{self._seed}"]
        found = [*([] if (shipped := shipped_version(name)) is None else [shipped]), *self._versions(_valid(name))]
        if not found:
            raise ConfigError(f"no router {name!r} in {self.folder}: there are {', '.join(self.names())}")
        return found

    def is_shipped(self, name: str) -> bool:
        """Whether a name comes with the package, and no version of it is registered here."""
        return name in router_names() and not self._versions(name)

    def current(self, name: str) -> str:
        """The version of a name that serves. Raises ConfigError for an unknown name."""
        return self.serving(name)[0]

    def serving(self, name: str) -> tuple[str, float | None]:
        """The version of a name that serves, and the threshold if one was chosen. Raises ConfigError."""
        versions = self.versions(name)
        chosen = read_chosen(self.folder / name)
        if chosen is None or (chosen.version not in versions and self.is_shipped(name)):
            return versions[0], None  # another shipped one came with the package: a threshold is of one version
        return chosen.version, chosen.threshold

    def default(self) -> str | None:
        """The name that serves where the config names none; None if none was chosen."""
        return _read(self.folder / "default")

    def load(self, name: str, version: str | None = None, *, remote: Collection[Placement] = ()) -> Registered:
        """A router, in its current version unless another is named.

        Routers placed in `remote` stay on the disk: the Scorer loads them. Raises
        ConfigError naming what there is, or the file and what to do.
        """
        serving, threshold = self.serving(name)
        path = self.path(name, version or serving)
        if name == RANDOM:
            found = load_router(RANDOM, seed=self._seed)
        else:
            found = load_artefact(path, KINDS, name, remote=remote)
        return found if version is not None or threshold is None else replace(found, threshold=threshold)

    def path(self, name: str, version: str) -> Path:
        """The folder of a version. Raises ConfigError if there is none."""
        if version not in self.versions(name):
            remedy = "; set routing.seed to that of the version" if name == RANDOM else ""
            have = ", ".join(self.versions(name))
            raise ConfigError(f"router {name} has no version {version!r} in {self.folder}: it has {have}{remedy}")
        own = self.folder / name / version
        if not own.is_dir():
            return artefacts_dir() / name
        if not own.resolve().is_relative_to(self.folder.resolve()):
            raise ConfigError(f"{own}: links to outside the registry; register the router there")
        return own

    def register(
        self,
        router: Router,
        *,
        name: str,
        calibration: Calibration,
        threshold: Threshold,
        models: tuple[str, str],
        data: Mapping[str, Any],
        metrics: Mapping[str, Any],
        run: Mapping[str, Any] | None = None,
        queries: Sequence[Query] = (),
        use: bool | None = None,
    ) -> str:
        """Save a fitted router as a new version. Returns the version. `run` holds the arguments that reproduce it.

        With the `queries` that it was trained and calibrated on, live inputs are watched for drift from them.

        The version appears whole or not at all. It serves at once if `use` is true, or if it is the first of its
        name and `use` is not false. The same router saved again is the same version. Raises ConfigError for a name
        that is invalid in requests or that of a shipped router, OSError if the folder cannot be written.
        """
        if name in router_names():
            raise ConfigError(
                f"router name {name!r}: a router that ships with jethro has it, and one name would stand for two: give "
                f"another, as {own_name(name)}"
            )
        first = _valid(name) not in self.names()
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=".draft-", dir=home))
        try:
            if len(queries) > 1:
                _inputs(router, queries).save(draft / INPUTS)
            version = save_registered(draft, router, calibration, threshold, models, data, metrics)
            about = {"registered_s": round(time.time(), 3), "run": dict(run or {})}
            (draft / "run.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            draft.chmod(0o755)
            try:
                draft.rename(home / version)
            except OSError:
                if not (home / version / "card.json").is_file():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if use or (use is None and first):
            self.use(name, version)
        return version

    def adopt(self, other: "Registry", name: str, version: str) -> None:
        """Copy a version of another registry, whole or not at all; it does not serve yet.

        Raises ConfigError if there is none or the name is invalid, OSError if the folder cannot be written.
        """
        source, home = other.path(name, version), self.folder / _valid(name)
        if (home / version / "card.json").is_file():
            return
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=".draft-", dir=home))
        try:
            shutil.copytree(source, draft, dirs_exist_ok=True)
            draft.chmod(0o755)
            draft.rename(home / version)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def use(self, name: str, version: str | None = None, threshold: float | None = None) -> None:
        """Serve a version from now on (default: the current one), at `threshold` instead of its own if given.

        Running endpoints load it within their `routing.reload_s`. Raises ConfigError for what does not exist.
        """
        if name == RANDOM:
            raise ConfigError("random has one version; set its threshold with routing.threshold")
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"threshold {threshold:g}: give a number from 0 (always strong) to 1")
        version = version or self.current(name)
        check_folder(self.path(name, version))
        class_of(self.path(name, version), read_card(self.path(name, version)), KINDS)
        own = own_threshold(self.path(name, version))
        with locked(self.folder / name):
            before, after = self._in_force(name), own if threshold is None else threshold
            write_chosen(self.folder / name, ChosenThreshold(version, threshold))
            add_to_history(self.folder / name, ThresholdChange.by_command(version, before, after, threshold))

    def _in_force(self, name: str) -> float | None:
        """The threshold that serves; None if that cannot be read, which `use` repairs."""
        try:
            version, threshold = self.serving(name)
            return own_threshold(self.path(name, version)) if threshold is None else threshold
        except ConfigError:
            return None

    def use_default(self, name: str) -> None:
        """Serve this name where the config names no router. Raises ConfigError for an unknown name."""
        self.current(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "default", f"{name}\n".encode())

    def fingerprint(self) -> tuple[str, ...]:
        """Changes with the version, threshold, or default that is to serve; cheap enough to read every second."""
        current = [f"{f.name}={_read(f / 'current') or ''}" for f in _folders(self.folder)]
        return (self.default() or "", *sorted(current))

    def _versions(self, name: str) -> list[str]:
        found = [f for f in _folders(self.folder / name) if _VERSION.fullmatch(f.name) and (f / "card.json").is_file()]
        return [f.name for f in sorted(found, key=lambda f: (_registered_s(f), f.name))]


def _inputs(router: Router, queries: Sequence[Query]) -> Inputs:
    """The reference for drift; with sentence vectors where training has left them all in the encoder."""
    encoder = loaded_encoder(router.params.get("encoder"))
    vectors = [encoder.cached(q.text) for q in queries] if encoder is not None else []
    known = [v for v in vectors if v is not None]
    return Inputs.of(queries, np.stack(known) if len(known) == len(queries) else None)


def artefacts_dir() -> Path:
    """Folder of the routers that ship with the package."""
    return Path(str(resources.files("serve_app.routing"))) / "artefacts"


def router_names() -> list[str]:
    """Names of the routers that ship with the package; `random` needs no artefact."""
    shipped = {f.parent.name for f in artefacts_dir().glob("*/card.json")}
    return sorted(shipped | {RANDOM})


def own_name(name: str) -> str:
    """The name to register a router under by default: that of a shipped one stands for the shipped one alone."""
    return f"my_{name}" if name in router_names() else name


def load_router(name_or_folder: str, *, seed: int = 0, remote: Collection[Placement] = ()) -> Registered:
    """A router that ships with the package by name, or the one in a folder. `seed` is that of `random` by name.

    Raises ConfigError naming what there is, or the file and what to do.
    """
    if name_or_folder == RANDOM:
        from serve_app.routing.kinds.random import RandomRouter

        return Registered(RandomRouter(seed), RANDOM_THRESHOLD, f"{RANDOM}-{seed}", uniform=True, name=RANDOM)
    shipped = name_or_folder in router_names()
    folder = artefacts_dir() / name_or_folder if shipped else Path(name_or_folder)
    if not folder.is_dir():
        raise ConfigError(
            f"routing.router: no router {name_or_folder!r}: give one of {', '.join(router_names())} "
            "or the folder of a saved router"
        )
    return load_artefact(folder, KINDS, remote=remote)


def shipped_version(name: str) -> str | None:
    """The version of a router that ships with the package; None if none of that name does."""
    folder = artefacts_dir() / name
    return str(read_card(folder)["version"]) if (folder / "card.json").is_file() else None


def check_own_name(name: str) -> None:
    """Raises ConfigError for a name that callers cannot write, or that a router has which ships with the package."""
    if _valid(name) in router_names():
        raise ConfigError(f"router name {name!r} is that of a router which ships with the package: give another --name")


def _valid(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"router name {name!r}: use a-z, 0-9 and _ (callers write router-NAME-THRESHOLD)")
    return name


def _folders(folder: Path) -> list[Path]:
    try:
        return [f for f in folder.iterdir() if not f.name.startswith(".") and f.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(file: Path) -> str | None:
    with reading(file, "choose the router again"):
        return (file.read_text("utf-8").strip() or None) if file.exists() else None


def _registered_s(folder: Path) -> float:
    try:
        return float(json.loads((folder / "run.json").read_text("utf-8"))["registered_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # copied there by hand
