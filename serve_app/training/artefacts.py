"""A registered router by name, version or folder, with what it learned from, on which it must not be measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import known_rows, load_fingerprints
from serve_app.decision.threshold import Calibration
from serve_app.errors import DataError
from serve_app.routing.artefact import Registered, read_card
from serve_app.routing.base import Report
from serve_app.routing.reference import open_reference, split_reference
from serve_app.routing.registry import Registry

_NAMED = 3
"""Queries that an error names."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A router that is ready to serve, and the folder that holds it; None for `random`, which has none."""

    registered: Registered
    folder: Path | None

    @property
    def name(self) -> str:
        """What callers call it."""
        return self.registered.name

    @property
    def calibration(self) -> Calibration | None:
        """What its threshold was read from."""
        return self.registered.calibration

    def card(self) -> dict[str, Any]:
        """Its card; empty for `random`."""
        return read_card(self.folder) if self.folder is not None else {}


def open_router(registry: Registry, which: str) -> Artefact:
    """The router NAME, NAME@VERSION, or in the folder of that path. Raises ConfigError naming what there is."""
    found = open_reference(registry, which)
    source, _ = split_reference(which)
    if source not in registry.names():
        return Artefact(found, Path(source))
    return Artefact(found, None if found.calibration is None else registry.path(source, found.version))


def learned_from(artefact: Artefact, dataset: Dataset) -> NDArray[np.int64]:
    """Positions of the queries that the router was fitted on or calibrated with. All of them, if the data are its own.

    Raises nothing; where an artefact keeps no hashes of its queries only the data as a whole are compared.
    """
    if artefact.folder is None:
        return np.empty(0, dtype=np.int64)
    if artefact.card().get("data", {}).get("digest") == dataset.digest():
        return np.arange(len(dataset))
    seen = load_fingerprints(artefact.folder)
    return np.empty(0, dtype=np.int64) if seen is None else known_rows(seen, dataset.queries)


def unlearned(artefact: Artefact, dataset: Dataset, source: str, skip: bool, report: Report) -> Dataset:
    """The dataset without queries that the router was fitted on or calibrated with, if `skip`, reporting how many.

    Raises DataError naming rows for such queries unless `skip`, and if none are left.
    """
    rows = learned_from(artefact, dataset)
    if len(rows) == 0:
        return dataset
    of = f"{len(rows):,} of {len(dataset):,} queries"
    which = f"{artefact.name} ({artefact.registered.version})"
    if skip and len(rows) < len(dataset):
        report(f"{source}: left out {of} that {which} learned from")
        return dataset.take(np.setdiff1d(np.arange(len(dataset)), rows))
    named = "; ".join(f"row {i} (id {dataset.ids[i]!r})" for i in rows[:_NAMED].tolist())
    raise DataError(
        f"{source}: {of} are among those that {which} learned from: {named}; figures on them would flatter it: give "
        "other queries, or leave these out with --skip-seen"
    )
