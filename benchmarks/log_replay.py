"""`python -m benchmarks.log_replay`: how long a replay takes, and how often its intervals hold what then happens.

Both embedded models answer queries that neither they nor the router have seen. Time: a log of such decisions in a
store's file, through another threshold with `jethro replay`, the whole command. Intervals: again and again a log of
some of the queries, decided at the threshold that ships, is replayed at another one, and other queries are then decided
at it; counted is how often their share of large-model calls, cost and exact answers lie within the interval stated for
the next queries. At 95 %, about one in twenty is outside.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.config import load
from serve_app.data.collection.lab import LabPlan, record_lab
from serve_app.decision.threshold import Calibration
from serve_app.replay.estimate import estimate
from serve_app.replay.log import DecisionColumns
from serve_app.replay.policy import RouterPolicy, move
from serve_app.replay.run import ReplayPlan
from serve_app.routing.registry import load_router
from serve_app.store.base import RequestRecord
from serve_app.store.database import Database
from serve_app.types import Decision, Step, Usage

THRESHOLDS = (0.01, 0.05, 0.2, 0.45, 0.7)
FIGURES = ("share", "cost_usd", "quality")
MOST_OUTSIDE = 0.12
"""Of the 5 % that are to be expected; runs on the same few thousand queries are not independent."""
_BATCH = 1000


def recorded(n: int, seed: int) -> Calibration:
    """Both models' answers to unseen queries, with the shipped router's scores."""
    from serve_app.lab import models_dir

    data = record_lab(models_dir(), LabPlan(n, "measure", seed))
    return Calibration.of(load_router("complexity").router.score(data.queries), data)


def outcomes(pool: Calibration, threshold: float, plan: ReplayPlan) -> dict[str, NDArray[np.float64]]:
    """What a threshold brings, query by query."""
    strong = pool.scores >= threshold
    rates = np.array([[p.input_usd_per_million, p.output_usd_per_million] for p in plan.prices]) / 1e6
    tokens = np.where(strong[:, None], pool.strong_tokens, pool.weak_tokens)
    quality = np.where(strong, pool.strong_quality, pool.weak_quality)
    return {"share": strong.astype(float), "cost_usd": (tokens * rates[strong.astype(int)]).sum(1), "quality": quality}


def records(pool: Calibration, rows: NDArray[np.int64], plan: ReplayPlan) -> list[RequestRecord]:
    """Decisions on some of the queries, at the threshold in force, as a Gateway stores them."""
    assert plan.in_force is not None
    now_s, found = time.time(), []
    for place, i in enumerate(rows):
        score = float(pool.scores[i])
        strong = score >= plan.in_force
        name, tokens = ("large", pool.strong_tokens[i]) if strong else ("small", pool.weak_tokens[i])
        usage, price = Usage(int(tokens[0]), int(tokens[1])), plan.prices[int(strong)]
        version = f"{plan.policy.version}@{plan.in_force:.6g}"
        decision = Decision(
            f"{place:024x}", "route", name, f"jlab-{name}", "score", score, plan.in_force, "complexity", version
        )
        step = Step(name, "chosen", usage, price.cost_usd(usage))
        found.append(
            RequestRecord(
                f"r{place}", "chat", now_s - len(rows) + place, decision=decision, steps=(step,), latency_ms=9.0
            )
        )
    return found


def timed(pool: Calibration, plan: ReplayPlan, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of the whole command, and of its parts in this process, by decisions in the file."""
    found, rng = [], np.random.default_rng(0)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "log.sqlite3"
            with closing(Database(str(file))) as database:
                made = records(pool, rng.integers(0, len(pool), size), plan)
                for start in range(0, size, _BATCH):
                    database.write(made[start : start + _BATCH])
            command = [sys.executable, "-m", "serve_app.cli.main", "replay", "--threshold", "0.3", "--json"]
            started = time.perf_counter()
            done = subprocess.run([*command, "--set", f"store.path={file}"], check=True, capture_output=True, text=True)
            whole = time.perf_counter() - started
            assert json.loads(done.stdout)["decisions"] == size
            started = time.perf_counter()
            from serve_app.store.filtering import DecisionFilter

            log = DecisionColumns.of_file(file, DecisionFilter())
            read = time.perf_counter() - started
            started = time.perf_counter()
            plan.replay(log)
            found.append(
                {"decisions": size, "command_s": whole, "read_s": read, "replay_s": time.perf_counter() - started}
            )
    return found


def held(pool: Calibration, plan: ReplayPlan, rounds: int, size: int, calibration: Calibration) -> list[dict[str, Any]]:
    """For each threshold and figure, how often the stated intervals held."""
    found, rng = [], np.random.default_rng(1)
    for threshold in THRESHOLDS:
        truth = outcomes(pool, threshold, plan)
        hits = dict.fromkeys(FIGURES, 0)
        widths = {name: 0.0 for name in FIGURES}
        for _ in range(rounds):
            drawn = rng.permutation(len(pool))
            logged, fresh = drawn[:size], drawn[size : 2 * size]
            log = DecisionColumns.of_records(_as_sent(record) for record in records(pool, logged, plan))
            moves = move(log, RouterPolicy("complexity", plan.policy.version, threshold))
            figures = estimate(moves, plan.prices, calibration, upcoming=size, rounds=200).figures
            for name in FIGURES:
                live, upcoming = truth[name][fresh].mean(), figures[name].upcoming
                hits[name] += bool(upcoming.low <= live <= upcoming.high)
                widths[name] += (upcoming.high - upcoming.low) / rounds
        for name in FIGURES:
            about = {"threshold": threshold, "figure": name, "true": float(truth[name].mean())}
            found.append({**about, "inside": hits[name] / rounds, "half_width": widths[name] / 2})
    return found


def _as_sent(record: RequestRecord) -> dict[str, Any]:
    """The columns of a record that a replay reads."""
    decision, usage = record.decision, record.usage
    assert decision is not None
    fields = ("strategy", "pool", "router", "policy_version", "privacy", "score", "threshold")
    return {
        "decision_id": decision.id,
        "created_s": record.created_s,
        "status": record.status,
        "endpoint": record.endpoint,
        "cost_usd": record.cost_usd,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        **{name: getattr(decision, name) for name in fields},
    }


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    time_rows = [[f"{r['decisions']:,}", r["command_s"], r["read_s"], r["replay_s"]] for r in found["times"]]
    names = {"share": "share of large", "cost_usd": "USD a query", "quality": "exact answers"}
    rows = [
        [
            r["threshold"],
            names[r["figure"]],
            f"{r['true']:.3g}",
            f"± {r['half_width']:.2g}",
            f"{100 * r['inside']:.1f}",
        ]
        for r in found["held"]
    ]
    overall = np.mean([r["inside"] for r in found["held"]])
    parts = [
        "# Replay of the decision log\n",
        "\n".join((__doc__ or "").split("\n\n")[1].splitlines()) + "\n",
        "## Time\n",
        markdown(["decisions", "jethro replay, s", "of it reading, s", "figures and intervals, s"], time_rows),
        "## Intervals\n",
        f"{found['rounds']} logs of {found['size']:,} decisions from {found['pool']:,} queries, and as many fresh "
        f"queries each. Over all rows, {100 * overall:.1f} % of the runs were inside.\n",
        markdown(["threshold", "figure", "true mean", "interval of a run", "runs inside, %"], rows),
        one_line(found["environment"]) + "\n",
    ]
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table; 1 if the intervals do not hold."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.log_replay", description=__doc__.splitlines()[0])
    p.add_argument("--pool", type=int, default=6000, help="queries that both models answer")
    p.add_argument(
        "--sizes", type=int, nargs="+", default=[50_000, 200_000], help="decisions of the logs that are timed"
    )
    p.add_argument("--rounds", type=int, default=100)
    p.add_argument("--size", type=int, default=500, help="decisions of the logs whose intervals are counted")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stamp = environment()
    pool, plan = recorded(args.pool, args.seed), ReplayPlan.of(load("lab", env={}))
    assert plan.found.calibration is not None
    found = {
        "environment": stamp,
        "pool": args.pool,
        "rounds": args.rounds,
        "size": args.size,
        "times": timed(pool, plan, args.sizes),
        "held": held(pool, plan, args.rounds, args.size, plan.found.calibration),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "log_replay.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "log_replay.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0 if np.mean([1 - row["inside"] for row in found["held"]]) <= MOST_OUTSIDE else 1


if __name__ == "__main__":
    sys.exit(main())
