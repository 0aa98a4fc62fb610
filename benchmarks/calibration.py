"""`python -m benchmarks.calibration`: whether thresholds keep what they are calibrated to, on a pool of lab queries.

A router is trained on lab queries of one half; its scores of queries of the other half are the pool. Shares: the pool
is halved at random, a threshold calibrated on one half to each of ten shares of strong calls, and the share counted on
the other half. Promises: calibration sets are drawn from the pool with replacement, and the true drop of the threshold
that each set gives is that on the whole pool.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.data.dataset import Dataset
from serve_app.decision.target import Guarantee
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import InsufficientData
from serve_app.training.training import new_router

SHARES = tuple(round(0.05 + 0.1 * i, 2) for i in range(10))
HALVES = 20
RESAMPLES = 200
DELTA = 0.1
DROPS = (0.01, 0.02, 0.05)
SIZES = (250, 500, 1000, 2000, 4000)
POINTS = 0.03
"""A share may miss its target by so much."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What became of RESAMPLES promises of one kind, drop and size of the calibration set."""

    method: str
    max_drop: float
    queries: int
    broken: float
    """Share of calibration sets whose threshold has a true drop above `max_drop`."""
    mean_drop: float
    drop_error: float
    """Standard error of the mean drop."""
    mean_share: float
    best_share: float
    """Strong calls of the threshold that one would choose knowing the whole pool."""
    refused: float
    """Share of calibration sets that were too small to promise anything (counted as always-strong)."""


def shares_held(pool: Calibration, seed: int) -> list[dict[str, float]]:
    """For each target the share on the other half: mean, and the largest miss over the halves."""
    rng = np.random.default_rng(seed)
    got: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(HALVES):
        rows = rng.permutation(len(pool))
        half, other = pool.take(rows[: len(rows) // 2]), pool.take(rows[len(rows) // 2 :])
        for share in SHARES:
            value = Threshold.for_share(half, share).value
            got[share].append(float((other.scores >= value).mean()))
    return [
        {"target": share, "mean": float(np.mean(found)), "largest_miss": float(np.max(np.abs(np.array(found) - share)))}
        for share, found in got.items()
    ]


def promises_kept(pool: Calibration, seed: int, report: Callable[[str], None] = print) -> list[Promise]:
    """Every method, drop and size."""
    found = []
    for method in ("none", "expectation", "ltt"):
        for max_drop in DROPS:
            for queries in SIZES:
                found.append(_promise(pool, method, max_drop, queries, seed))
                report(f"{method}, drop {max_drop:g}, {queries:,} queries: broken {100 * found[-1].broken:.1f} %")
    return found


def _promise(pool: Calibration, method: str, max_drop: float, queries: int, seed: int) -> Promise:
    rng = np.random.default_rng([seed, queries])
    drops, shares, refused = [], [], 0
    for _ in range(RESAMPLES):
        sample = pool.take(rng.integers(0, len(pool), queries))
        try:
            value = _threshold(sample, method, max_drop)
        except InsufficientData:
            value, refused = 0.0, refused + 1
        true = Threshold.of_value(pool, value, "")
        drops.append(true.drop)
        shares.append(true.share)
    broken = float(np.mean([drop > max_drop + 1e-12 for drop in drops]))
    mean_drop, error = float(np.mean(drops)), float(np.std(drops) / np.sqrt(RESAMPLES))
    best = Threshold.for_drop(pool, max_drop).share
    return Promise(
        method, max_drop, queries, broken, mean_drop, error, float(np.mean(shares)), best, refused / RESAMPLES
    )


def _threshold(sample: Calibration, method: str, max_drop: float) -> float:
    """Without a promise the threshold is that of the sample's own drop, as `Threshold.for_drop` takes it."""
    if method == "none":
        return Threshold.for_drop(sample, max_drop).value
    guarantee = Guarantee("ltt", DELTA) if method == "ltt" else Guarantee("expectation")
    return guarantee.threshold(sample, max_drop)


def verdict(shares: list[dict[str, float]], promises: list[Promise]) -> dict[str, Any]:
    """The figures that count, and whether they are as promised."""
    ltt = [p for p in promises if p.method == "ltt"]
    expected = [p for p in promises if p.method == "expectation"]
    found = {
        "largest_share_miss": max(row["largest_miss"] for row in shares),
        "most_broken_ltt": max(p.broken for p in ltt),
        "largest_mean_drop_over_target": max((p.mean_drop - 2 * p.drop_error) / p.max_drop for p in expected),
        "weak_calls_of_the_possible_ltt": min(
            (1 - p.mean_share) / (1 - p.best_share) for p in ltt if p.queries == max(SIZES)
        ),
    }
    held = found["largest_share_miss"] <= POINTS and found["most_broken_ltt"] <= DELTA
    return {**found, "held": bool(held and found["largest_mean_drop_over_target"] <= 1.0)}


def lab_pool(models: Path, train: int, pool: int, seed: int, kind: str) -> tuple[Calibration, dict[str, Any]]:
    """A router trained on lab queries, and its scores of a pool that neither it nor the models were trained on."""
    from serve_app.data.collection.lab import LabPlan, record_lab

    learn, measure = (record_lab(models, LabPlan(*part, seed)) for part in ((train, "learn"), (pool, "measure")))
    measure = _distinct(measure)
    router = new_router(kind, {}, seed).fit(learn)
    about = {"router": kind, "trained_on": len(learn), "pool": len(measure), "seed": seed}
    return Calibration.of(router.score(measure.queries), measure), about


def _distinct(dataset: Dataset) -> Dataset:
    """Each query once: small families of the lab repeat theirs, and a repeated query is not a further one."""
    first = {q.text: i for i, q in reversed(list(enumerate(dataset.queries)))}
    return dataset.take(sorted(first.values()))


def table(shares: list[dict[str, float]], promises: list[Promise], found: dict[str, Any], about: dict[str, Any]) -> str:
    """Both tables and what they come to."""
    rows: list[list[object]] = [
        [f"{100 * s['target']:.0f} %", f"{100 * s['mean']:.2f}", f"{100 * s['largest_miss']:.2f}"] for s in shares
    ]
    names = {"none": "no promise", "expectation": "in expectation", "ltt": f"with confidence {1 - DELTA:g}"}
    kept: list[list[object]] = [
        [
            f"{names[p.method]}, drop <= {100 * p.max_drop:g} %",
            p.queries,
            f"{100 * p.broken:.1f}",
            f"{100 * p.mean_drop:.2f}",
            f"{100 * p.mean_share:.1f}",
            f"{100 * p.best_share:.1f}",
            f"{100 * p.refused:.0f}",
        ]
        for p in promises
    ]
    head = ["promise", "queries", "broken, %", "mean drop, %", "strong calls, %", "best possible, %", "refused, %"]
    return "\n".join(
        [
            f"Share of strong calls on the other half, {HALVES} random halves:\n",
            markdown(["target", "mean, %", "largest miss, points"], rows),
            f"Quality drop promised from {RESAMPLES} calibration sets of each size; truth is the whole pool:\n",
            markdown(head, kept),
            f"{about['router']} router, trained on {about['trained_on']:,} lab queries, pool of {about['pool']:,} "
            f"others. Largest miss of a share {100 * found['largest_share_miss']:.2f} points; the promise with "
            f"confidence {1 - DELTA:g} was broken in at most {100 * found['most_broken_ltt']:.1f} % of sets; sets that "
            "were refused as too small count as always-strong, which keeps any promise.\n",
        ]
    )


def draw(promises: list[Promise], caption: str, path: Path) -> None:
    """Two panels: how often the promise of the first drop is broken, and the strong calls that it costs."""
    figure, (left, right) = plots.new_figure(2, 5.0)
    names = {"none": "no promise", "expectation": "in expectation", "ltt": f"with confidence {1 - DELTA:g}"}
    for method, name in names.items():
        of = [p for p in promises if p.method == method and p.max_drop == DROPS[0]]
        left.plot([p.queries for p in of], [100 * p.broken for p in of], marker="o", label=name)
        right.plot([p.queries for p in of], [100 * p.mean_share for p in of], marker="o", label=name)
    left.axhline(100 * DELTA, color=plots.GREY, linestyle=":", label=f"delta = {DELTA:g}")
    right.axhline(100 * promises[0].best_share, color=plots.GREY, linestyle=":", label="knowing the whole pool")
    left.set_ylabel(f"calibration sets whose drop is over {100 * DROPS[0]:g} %, %")
    right.set_ylabel("strong calls, %")
    for axes in (left, right):
        axes.set(xlabel="calibration queries", xscale="log")
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    plots.caption(figure, caption)
    plots.save(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Measure, write JSON, table and plot; 1 if a share or a promise was not held."""
    from serve_app.lab import models_dir

    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--models", type=Path, default=models_dir(), help="folder of the lab's models")
    parser.add_argument("--kind", default="complexity", help="kind of router")
    parser.add_argument("--train", type=int, default=6000, help="queries that it is trained on")
    parser.add_argument("--pool", type=int, default=30_000, help="queries of the pool; repeated ones are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(argv)
    stamp = environment()
    pool, about = lab_pool(args.models, args.train, args.pool, args.seed, args.kind)
    shares, promises = shares_held(pool, args.seed), promises_kept(pool, args.seed)
    found = verdict(shares, promises)
    text = table(shares, promises, found, about) + f"\n{one_line(stamp)}, seed {args.seed}\n"
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    body = {"environment": stamp, "about": about, "verdict": found, "shares": shares}
    body["promises"] = [{name: getattr(p, name) for name in Promise.__slots__} for p in promises]
    (args.out / "calibration.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
    (args.out / "calibration.md").write_text(text, "utf-8")
    draw(promises, one_line(stamp), args.out / "calibration.png")
    return 0 if found["held"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
