"""Trains a router of any kind, calibrates it on held-out scores, and registers it with the run that repeats it.

A router's scores of the queries it was fitted on flatter it. Either every query is scored by a router fitted on the
other folds (cross-fitting; the one that serves is then fitted on all), or 20 % are held out and the one router fitted
on the others serves (for kinds that take long). Equal and nearly equal queries are in one fold. A run (kind,
parameters, data, seed, folds, target) is kept with every artefact: training from it returns the same router, and so the
same version; other data or other library versions are reported.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import load_fingerprints, save_fingerprints
from serve_app.data.splitting import folds as near_duplicate_safe_folds
from serve_app.decision.target import Guarantee, Target, quality_range
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError, reading
from serve_app.routing.artefact import PROMISING, class_of_kind
from serve_app.routing.base import Report, Router, silent
from serve_app.routing.registry import KINDS, Registry, own_name
from serve_app.training.artefacts import Artefact
from serve_app.training.evaluation import router_metrics

FILE = "run.json"
ARTEFACT_KEYS = ("libraries", "calibrated")
"""Keys of a run.json that describe the artefact and take no part in training."""
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
    """Scores for threshold and figures: cross-fitted over this many folds, or of a 20 % hold-out (1)."""
    target: str = "quality-drop=0.01"
    """What the threshold is calibrated to."""
    digest: str = ""
    """Hash of the data; empty in a file that was written by hand."""

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ConfigError(f"folds is {self.folds}: give 2 or more to cross-fit, or 1 for a 20 % hold-out")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run in a YAML or JSON file, or in the run.json of an artefact. Raises ConfigError naming file and key."""
        body = {key: value for key, value in _read(path).items() if key not in ARTEFACT_KEYS}
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
        """What an artefact's run.json keeps: the run, and the versions of the installed libraries."""
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
    """The content of an artefact's run.json; empty for one that ships without."""
    path = folder / FILE
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    import yaml

    with reading(path, "give the run.json of an artefact, or one like it", yaml.YAMLError):
        body = yaml.safe_load(path.read_text("utf-8"))
    if isinstance(body, dict) and isinstance(body.get("run"), dict):
        body = body["run"]
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: must hold an object with kind and data")
    return body


def _fits(key: str, value: object) -> bool:
    if key == "params":
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if key in ("seed", "folds"):
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or (key == "preferences" and value is None)


CROSS_FITTED = "cross-fitted"
HELD_OUT, FRESH = PROMISING
"""How the scores of a card's calibration were made; those of the first are not those of the router that serves."""
HELD_OUT_OF = 5
"""One of this many folds is held out where there is no cross-fitting."""
FINE_TUNED = frozenset({"bert", "causal_llm", "hybrid_det", "hybrid_prob", "hybrid_trans", "best_route"})
"""Kinds that train a whole encoder or language model: five fits more would be hours."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted router with what it promises on queries that it was not fitted on."""

    run: TrainingRun
    """As requested, with every parameter written out: defaults may differ in a later version."""
    router: Router
    calibration: Calibration
    threshold: Threshold
    refitted: bool
    """Whether the router was fitted again on all queries after the calibration's scores were made."""


def data_digest(dataset: Dataset) -> str:
    """Hash of all that a router may learn from: the dataset, and battles in addition to it."""
    battles = dataset.preferences
    if battles is None:
        return dataset.digest()
    digest = blake2b(dataset.digest().encode(), digest_size=16)
    for query, *rest in zip(battles.queries, battles.model_a, battles.model_b, battles.outcome.tolist(), strict=True):
        digest.update(json.dumps([[m.to_openai() for m in query.messages], *rest]).encode() + b"\n")
    return digest.hexdigest()


def router_class(kind: str) -> type[Router]:
    """The class of a kind. Raises ConfigError naming the kinds."""
    if kind not in KINDS:
        raise ConfigError(f"no router kind {kind!r}: there are {', '.join(sorted(KINDS))}")
    return class_of_kind(KINDS[kind])


def new_router(kind: str, params: Mapping[str, Any], seed: int | None = None) -> Router:
    """An unfitted router. `seed` is passed to kinds that take one, unless `params` do.

    Raises ConfigError for an unknown kind or parameter, or a value that the kind refuses.
    """
    cls = router_class(kind)
    known = [name for name in signature(cls).parameters if name not in ("args", "kwargs")]
    unknown = [name for name in params if name not in known]
    if unknown:
        raise ConfigError(f"{kind}: no parameter {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    given = {"seed": seed, **params} if seed is not None and "seed" in known else dict(params)
    try:
        return cls(**given)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{kind}: {e}; see --set") from e


def default_folds(kind: str) -> int:
    """Five to cross-fit; 1 (a hold-out) for kinds that are fine-tuned or too heavy for the Gateway."""
    return 1 if kind in FINE_TUNED or router_class(kind).placement == "scorer" else 5


def train(run: TrainingRun, dataset: Dataset, report: Report = silent) -> Trained:
    """Fit and calibrate the router of a run. The dataset has the pools `small` and `large`, scored.

    Raises ConfigError if the data cannot teach the router or cannot be split.
    """
    target = Target.parse(run.target)
    scores, rows, kept = honest_scores(run, dataset, report)
    router = kept
    if router is None:
        report(f"{run.kind}: fitting on all {len(dataset):,} queries")
        router = new_router(run.kind, run.params, run.seed).fit(dataset, lambda line: report(f"  {line}"))
    calibration = Calibration.of(scores, dataset.take(rows))
    every = {name: value for name, value in router.params.items() if name != "seed" or "seed" in run.params}
    return Trained(replace(run, params=every), router, calibration, target.threshold(calibration), kept is None)


def register(
    trained: Trained, dataset: Dataset, registry: Registry, name: str | None = None, use: bool | None = None
) -> str:
    """Save the router as a version of `name` with card, calibration, figures and run.

    Without `name` it is `own_name` of its kind. Returns the version; see `Registry.register` for `use`. Raises
    ConfigError for a bad name.
    """
    name = name or own_name(trained.run.kind)
    version = registry.register(
        trained.router,
        name=name,
        calibration=trained.calibration,
        threshold=trained.threshold,
        models=(dataset.weak.model, dataset.strong.model),
        data={
            "digest": data_digest(dataset),
            "queries": len(dataset),
            "calibration": CROSS_FITTED if trained.refitted else HELD_OUT,
            **dataset.about,
        },
        metrics=router_metrics(trained.calibration, trained.threshold.value, trained.run.seed),
        run=trained.run.to_json(),
        queries=dataset.queries,
        use=use,
    )
    battles = () if dataset.preferences is None else dataset.preferences.queries
    save_fingerprints(registry.path(name, version), dataset.queries + battles)
    return version


def recalibrate(
    artefact: Artefact, dataset: Dataset, target: Target, guarantee: Guarantee | None, registry: Registry
) -> str:
    """Register the same router with a threshold calibrated on the dataset, as a new version that does not serve yet.

    A shipped one is registered under `own_name`. Returns the version. The dataset holds queries that the router has not
    learned from. Raises ConfigError where the target cannot be reached (InsufficientData where it cannot be promised).
    """
    found = artefact.registered
    if artefact.folder is None:
        raise ConfigError(f"{artefact.name} has nothing to calibrate: its share of strong calls is 1 - threshold")
    calibration = Calibration.of(found.router.score(dataset.queries), dataset)
    threshold = target.threshold(calibration, guarantee)
    run = read_run(artefact.folder)
    card = artefact.card()
    facts = {"target": str(target), "guarantee": None if guarantee is None else str(guarantee), "of": found.version}
    about = {"calibration_digest": dataset.digest(), "quality_range": list(quality_range(dataset.about))}
    data = {**card["data"], "calibration": FRESH, **about}
    version = registry.register(
        found.router,
        name=own_name(artefact.name),
        calibration=calibration,
        threshold=threshold,
        models=(dataset.weak.model, dataset.strong.model),
        data=data,
        metrics=router_metrics(calibration, threshold.value),
        run={**run, "calibrated": {**facts, "queries": len(dataset)}},
        queries=dataset.queries,
        use=False,
    )
    save_fingerprints(
        registry.path(own_name(artefact.name), version), dataset.queries, load_fingerprints(artefact.folder)
    )
    return version


def honest_scores(
    run: TrainingRun, dataset: Dataset, report: Report = silent
) -> tuple[Floats, NDArray[np.int64], Router | None]:
    """Scores by routers that were not fitted on what they score, and the positions of the queries scored.

    With `run.folds` of 2 or more all queries are scored and the third is None; with 1 a hold-out of 20 % is, and the
    third is the router fitted on the others.
    """
    held = run.folds == 1
    folds = near_duplicate_safe_folds(dataset, HELD_OUT_OF if held else run.folds, run.seed)
    scores = np.empty(len(dataset))
    kept: Router | None = None
    for fold in range(1 if held else run.folds):
        inside, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(inside) == 0 or len(others) == 0:
            raise ConfigError(
                f"the data cannot be split into {max(run.folds, HELD_OUT_OF)} folds: too few different queries; "
                "collect more"
            )
        of = "held out" if held else f"fold {fold + 1} of {run.folds}"
        report(f"{run.kind}: {of}: fitting on {len(others):,} queries, scoring {len(inside):,}")
        router = new_router(run.kind, run.params, run.seed)
        router.fit(dataset.take(others), lambda line: report(f"  {line}"))
        scores[inside] = router.score(dataset.take(inside).queries)
        kept = router if held else None
    rows = np.flatnonzero(folds == 0) if held else np.arange(len(dataset))
    return scores[rows], rows, kept
