"""Plans over engines that answer by script, and what a run of them has to leave behind."""

from collections.abc import Sequence

from serve_app.data.near_duplicates import normalise
from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round, Selection
from serve_app.ensemble.serving.strategy import Ensemble
from tests.cascade.fakes import engine_of, pool


def members(**says: object) -> dict[str, LocalPool]:
    """A pool by each name that says this, or the pool itself."""
    return {n: s if isinstance(s, LocalPool) else pool(s, n) for n, s in says.items()}  # type: ignore[arg-type]


def plan(
    *rounds: Sequence[str | MemberCalls], select: Selection = "vote", stop_at: float = 0.0, **options: object
) -> EnsemblePlan:
    """Rounds of members by name; all but the last stop at `stop_at`."""
    made = [[MemberCalls(m) if isinstance(m, str) else m for m in each] for each in rounds]
    limits = [stop_at] * (len(made) - 1) + [0.0]
    at = [Round(tuple(calls), limit) for calls, limit in zip(made, limits, strict=True)]
    return EnsemblePlan(tuple(at), select, "ensemble-test", **options)  # type: ignore[arg-type]


def ensemble(pools: dict[str, LocalPool], made: EnsemblePlan | None = None, **options: object) -> Ensemble:
    return Ensemble("ensemble", made or plan(tuple(pools)), pools, normalise, **options)  # type: ignore[arg-type]


def assert_nothing_is_open(pools: dict[str, LocalPool]) -> None:
    assert {name: engine_of(p).running for name, p in pools.items()} == dict.fromkeys(pools, 0)
    assert {name: p.load().in_flight for name, p in pools.items()} == dict.fromkeys(pools, 0)
