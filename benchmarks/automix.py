"""AutoMix's three deciders on a recorded confidence: gain per unit of cost, fitted on all labels and on fifty.

Aggarwal, Madaan et al. 2024 (arXiv 2310.12963), section 4: incremental benefit per cost (IBC), and its lift over the
straight line from the small model to the large one, in percent, here averaged over nine budgets between the two. No
model verified its answer for this: p is the recorded confidence, on TriviaQA the one that the model stated when
prompted for it, on MMLU the probability of the answer's token. Its cost was not recorded and is not counted, where
AutoMix pays for several verifications of each answer. Fitted on the train part, measured on the test part.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.cascade.fitting.automix import DECIDERS, LabelledQueries, escalated, incremental_benefit
from serve_app.data.recorded import Recorded, read
from serve_app.learning.metrics import bootstrap

PAIRS = (
    ("llama3.2-1b", "llama3.1-70b"),
    ("llama3.2-3b", "llama3.1-70b"),
    ("llama3.1-8b", "llama3.1-405b"),
    ("gpt-4o-mini", "gpt-4o"),
)
SETS = {"TriviaQA": "triviaqa_chain.jsonl.gz", "MMLU": "mmlu_chain.jsonl.gz"}
FEW, DRAWS = 50, 20
BUDGETS = np.linspace(0.1, 0.9, 9)
_ROUNDS = 500


def labelled(recorded: Recorded) -> LabelledQueries:
    """Of two models: p of the first one's answers."""
    p = np.clip(np.exp(recorded.confidence[:, 0]), 0.0, 1.0)
    return LabelledQueries(p, recorded.ok[:, 0], recorded.ok[:, 1], recorded.cost_usd[:, 0], recorded.cost_usd[:, 1])


def escalations(train: LabelledQueries, test: LabelledQueries, decider: str) -> list[NDArray[np.bool_]]:
    """At each budget, fitted on train, the test queries that are escalated."""
    low, high = train.small_cost.mean(), train.large_cost.mean()
    return [escalated(DECIDERS[decider](train, float(low + x * (high - low))), test.p) for x in BUDGETS]


def lift(quality: float, cost: float, small: tuple[float, float], large: tuple[float, float]) -> float:
    """Relative excess of a method's IBC over that of the line from small to large: 0 on it, 0.5 for half as much again.

    `small` and `large`: quality and cost of either alone. nan where the line has no slope.
    """
    base = incremental_benefit(*large, small)
    return (incremental_benefit(quality, cost, small) - base) / base if base else float("nan")


def mean_lift(
    test: LabelledQueries, found: Sequence[NDArray[np.bool_]], rows: NDArray[np.int64] | None = None
) -> float:
    """In percent, over the budgets at which anything is escalated: without cost there is no benefit per cost."""
    rows = np.arange(len(test.p)) if rows is None else rows
    small = (float(test.small[rows].mean()), float(test.small_cost[rows].mean()))
    large = (float(test.large[rows].mean()), float(test.large_cost[rows].mean()))
    part = test.take(rows)
    lifts = [lift(*part.means(mask[rows]), small, large) for mask in found if mask[rows].any()]
    return 100 * float(np.mean(lifts)) if lifts else 0.0


def measured(data: Path) -> list[dict[str, Any]]:
    """A row for each set and pair."""
    rng, rows = np.random.default_rng(0), []
    for name, file in SETS.items():
        recorded = read(data / file)
        for pair in PAIRS:
            train, test = (labelled(recorded.of(pair).split(part)) for part in ("train", "test"))
            row: dict[str, Any] = {"set": name, "pair": f"{pair[0]} -> {pair[1]}"}
            row["hopeless"] = float(np.mean((test.small < 0.5) & (test.large < 0.5)))
            for decider in DECIDERS:
                found = escalations(train, test, decider)
                interval = bootstrap(lambda at, f=found, t=test: mean_lift(t, f, at), len(test.p), rounds=_ROUNDS)
                few = [train.take(rng.choice(len(train.p), FEW, replace=False)) for _ in range(DRAWS)]
                lifts = [mean_lift(test, escalations(part, test, decider)) for part in few]
                row[decider] = {"lift": interval.value, "low": interval.low, "high": interval.high}
                row[decider] |= {"few": float(np.mean(lifts)), "few_sd": float(np.std(lifts))}
            rows.append(row)
            print(f"{name} {row['pair']}: done", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]], stamp: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["set", "models", "hopeless, %"]
    for decider in DECIDERS:
        head += [f"{decider} [95 %]", f"{decider}, {FEW} labels"]
    cells = []
    for row in rows:
        line = [row["set"], row["pair"], f"{100 * row['hopeless']:.0f}"]
        for decider in DECIDERS:
            r = row[decider]
            line += [f"{r['lift']:+.0f} [{r['low']:+.0f}, {r['high']:+.0f}]", f"{r['few']:+.0f} ± {r['few_sd']:.0f}"]
        cells.append(line)
    about = (
        "The deciders of AutoMix on a recorded confidence, not on self-verification: on TriviaQA the confidence that "
        "the small model stated when prompted for it, on MMLU the probability of its answer's token. The cost of that "
        "confidence was not recorded and is not counted; AutoMix pays for several verifications of each answer, so "
        "its lift would be lower.\n\n"
        "Lift of the incremental benefit per cost over the line from small to large, in percent, mean over nine "
        f"budgets; intervals by bootstrap of the test queries; with {FEW} labels: mean and standard deviation "
        f"of {DRAWS} draws. hopeless: neither model is right."
    )
    return f"# AutoMix's deciders on a recorded confidence\n\n{about}\n\n{markdown(head, cells)}\n{one_line(stamp)}\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of the lift, with intervals."""
    figure, axes = plots.new_figure(1, 10, 4.5)
    for number, decider in enumerate(DECIDERS):
        found = [row[decider] for row in rows]
        at = np.arange(len(rows)) + 0.27 * (number - 1)
        lifts = np.array([f["lift"] for f in found])
        spread = np.abs(np.array([[f["low"], f["high"]] for f in found]).T - lifts)
        axes.bar(at, lifts, 0.25, yerr=spread, label=decider, error_kw={"linewidth": 0.8})
    names = [f"{row['set']}\n{row['pair'].replace(' -> ', chr(10))}" for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set(ylabel="lift of IBC, %", title="on a recorded confidence, whose cost is not counted")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(fontsize=8)
    plots.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, measure, write JSON, table and plot."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.automix", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="folder of the recorded chains")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stamp, rows = environment(), measured(args.data)
    stamp["command"] = stamp["command"].replace(str(args.data), args.data.name)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "automix.json").write_text(json.dumps({"environment": stamp, "rows": rows}, indent=1) + "\n", "utf-8")
    (args.out / "automix.md").write_text(table(rows, stamp), "utf-8")
    plot(rows, args.out / "automix.png")
    print(table(rows, stamp))
    return 0


if __name__ == "__main__":
    sys.exit(main())
