"""What a collection checks before its first call is paid: file, metric, references, pools, the prior's router."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.cli.options import say
from serve_app.errors import ConfigError, DataError, writing

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.collection.plan import LabeledQuery
    from serve_app.data.dataset import Dataset
    from serve_app.grading.base import ReferenceMetric
    from serve_app.training.artefacts import Artefact

_NAMED = 3
"""Queries that an error names."""


@dataclass(frozen=True)
class PriorOfQueries:
    """The router whose score is recorded for each query, loaded; `reference` has its version."""

    reference: str
    artefact: "Artefact"

    def learned_from(self, queries: "Sequence[LabeledQuery]") -> list[int]:
        """Positions of the queries that the router was fitted on or calibrated with, if it keeps their hashes."""
        from serve_app.data.near_duplicates import known_rows, load_fingerprints

        seen = None if self.artefact.folder is None else load_fingerprints(self.artefact.folder)
        rows = [] if seen is None else known_rows(seen, [item.query for item in queries]).tolist()
        return [int(row) for row in rows]

    def score(self, found: "Dataset") -> "Dataset":
        """The data set with the router's scores, and with its name and version."""
        from dataclasses import replace

        from serve_app.data.recorded import PRIOR_OF

        scores = self.artefact.registered.router.score(found.queries)
        return replace(found, prior=scores, about={**found.about, PRIOR_OF: self.reference})


def prior_of(reference: str | None, config: "Config") -> PriorOfQueries | None:
    """The router of a reference, None: the one that serves by default, loaded and able to score; none for "".

    By default there is none either where no router that knows the models is chosen: a hash is no evidence. Raises
    ConfigError naming the routers that exist.
    """
    if reference == "":
        return None
    from serve_app.routing.default import default_source, guess_statement, is_undecided
    from serve_app.routing.reference import pinned
    from serve_app.routing.registry import Registry
    from serve_app.routing.serving.loading import warm_up
    from serve_app.training.artefacts import open_router

    registry = Registry(Path(config.routing.registry), config.routing.seed)
    models = config.routed_models
    if reference is None and is_undecided(config.routing, registry, models):
        say(
            f"note: no router trained on {' and '.join(models)} is chosen: no prior is recorded; name one with --router"
        )
        return None
    chosen = default_source(config.routing, registry, models) if reference is None else reference
    found = open_router(registry, chosen)
    warm_up(found.registered)
    if (statement := guess_statement(found.registered, models)) is not None:
        say(f"note: {statement}, or collect without a prior: --router ''")
    return PriorOfQueries(pinned(registry, chosen, found.registered), found)


def answerable(
    queries: "list[LabeledQuery]", metric: str | None, prior: PriorOfQueries | None, skip: bool
) -> "list[LabeledQuery]":
    """The queries that the prior's router has not learned from, all with what the metric compares answers with.

    Raises DataError for others; those that the router knows are left out if `skip`.
    """
    kept = _unseen(queries, prior, skip)
    check_references(kept, metric)
    return kept


def _unseen(queries: "list[LabeledQuery]", prior: PriorOfQueries | None, skip: bool) -> "list[LabeledQuery]":
    rows = set(prior.learned_from(queries)) if prior is not None else set()
    if prior is None or not rows:
        return queries
    of = f"{len(rows):,} of {len(queries):,} queries"
    if skip and len(rows) < len(queries):
        say(f"left out {of} that router {prior.reference} learned from")
        return [item for at, item in enumerate(queries) if at not in rows]
    named = ", ".join(repr(queries[at].id) for at in sorted(rows)[:_NAMED])
    raise DataError(
        f"{of} are among those that router {prior.reference} learned from ({named}): its score of them is surer than "
        "of any served query, and a fit would trust it; leave them out with --skip-seen, give others, or collect "
        "without a prior: --router ''"
    )


def check_out(out: Path, samples: int, journal: Path) -> None:
    """Raises ConfigError for a file that exists, or that cannot be written in the end: its kind, folder, or format."""
    if out.exists() and not journal.exists():
        raise ConfigError(f"{out}: exists already, without its journal; give another --out, or move it away")
    if not out.name.endswith((".jsonl", ".parquet")):
        raise ConfigError(f"--out {out}: give a name that ends in .jsonl or .parquet")
    if out.name.endswith(".jsonl") and samples > 1:
        raise ConfigError(f"--out {out}: JSON lines hold one answer a query, -n is {samples}; give a .parquet file")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; give the name of a file")
    if out.name.endswith(".parquet"):
        from serve_app.data.parquet import require_parquet

        require_parquet()
    with writing(out, "make room or give another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.with_name(f".{out.name}.probe")
        probe.touch()
        probe.unlink()


def check_request(config: "Config", names: Sequence[str], metric: str | None, *, logprobs: bool, instead: bool) -> None:
    """Raises ConfigError for an unknown metric, and for pools that are unknown, named twice, or return too little.

    `logprobs`: log-probabilities are collected, for cascades; `instead`: so is other evidence.
    """
    from serve_app.grading import JUDGES

    check_references((), metric)
    if metric in JUDGES:
        raise ConfigError(
            f"--metric {metric} calls a pool for each answer: collect without --metric, and grade afterwards with "
            f"`jethro data score --metric {metric} --judge POOL`"
        )
    if unknown := [name for name in names if name not in config.chat_pools]:
        raise ConfigError(f"the config has no pool {unknown[0]!r} that chats: it has {', '.join(config.chat_pools)}")
    if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise ConfigError(f"pool {twice[0]!r} is named twice: name each pool once, weakest first")
    from serve_app.pools.factory import capabilities

    chosen = list(names) or list(config.chat_pools)
    deaf = [name for name in chosen[:-1] if not capabilities(config.pools[name]).logprobs]
    if logprobs and deaf and not instead:
        raise ConfigError(
            f"pool {deaf[0]} returns no log-probabilities (pools.{deaf[0]}.engine.logprobs), so that a chain cannot "
            "tell its good answers from its bad ones: set the key if it does return them, or collect other evidence "
            "with --samples 4 or --verdicts 8"
        )


def check_references(queries: "Collection[LabeledQuery]", metric: str | None) -> None:
    """Raises ConfigError for an unknown metric, DataError for queries without the reference that it compares with."""
    if metric is None:
        return
    from serve_app.grading import JUDGES, get_metric
    from serve_app.grading.base import ReferenceMetric

    if metric in JUDGES:
        return
    made = get_metric(metric)
    lacking = [item.id for item in queries if item.reference is None]
    if isinstance(made, ReferenceMetric) and lacking:
        raise DataError(
            f"row {lacking[0]!r} has no reference ({len(lacking):,} of {len(queries):,} have none), but the metric "
            f"{metric!r} compares with it: add `reference` to each row, or collect without --metric and score with one "
            "that needs none, as judge"
        )
    if isinstance(made, ReferenceMetric) and queries:
        _rehearse(made, list(queries))


def _rehearse(metric: "ReferenceMetric", queries: "list[LabeledQuery]") -> None:
    """Grades no answers at all, to find a reference that the metric cannot read. Raises DataError naming its row."""
    from serve_app.data.dataset import Dataset

    metric.prepare_all(
        Dataset(
            tuple(item.query for item in queries),
            {},
            tuple(item.group for item in queries),
            ids=tuple(item.id for item in queries),
            references=tuple(item.reference for item in queries),
        )
    )
