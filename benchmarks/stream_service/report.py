"""What the runs show: figures, a table and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stamp import one_line
from benchmarks.stats import percentile
from benchmarks.stream_service.serving import Plan, Seen
from benchmarks.table import markdown

WINDOW = 1000
"""Queries over which accuracy is shown, and after a change waited for."""
EQUAL_CALLS = 0.02
"""Difference of the shares of LLM calls up to which two runs are compared."""


def figures(plan: Plan, seen: Seen) -> dict[str, Any]:
    """One run as JSON-ready figures."""
    right = np.array([r is True for r in seen.right], dtype=float)
    n = len(right)
    turn = n if plan.shift_at is None else int(plan.shift_at * n)
    found = {
        "queries": n,
        "failed": len(seen.failures),
        "first_failures": seen.failures[:5],
        "accuracy": float(right.mean()),
        "accuracy_last_quarter": float(right[-n // 4 :].mean()),
        "llm_share": float(np.mean(seen.llm)),
        "queries_per_second": n / seen.wall_s,
        "latency_ms": {f"p{p}": 1e3 * percentile(seen.seconds, p) for p in (50, 99)},
        "kills": seen.kills,
        "learned": {k: seen.figures[k] for k in ("queries", "llm_calls", "labelled", "unparsed", "lost", "refused")},
        "drift_alarms": seen.figures["learner"]["drift_alarms"],
        "drift_looks": seen.figures["learner"]["drift_looks"],
        "curve": [float(part.mean()) for part in np.array_split(right, max(1, n // WINDOW))],
    }
    if turn < n:
        found["before_shift"] = float(right[max(0, turn - 2 * WINDOW) : turn].mean())
        found["at_shift"] = float(right[turn : turn + WINDOW // 2].mean())
        found["at_end"] = float(right[-2 * WINDOW :].mean())
    return found


def passed(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """What must hold of the runs that were made."""
    held = {
        "no query fails": all(r["failed"] == 0 for r in runs.values()),
        "nothing is lost": all(_whole(r) for r in runs.values()),
    }
    if "killed" in runs and "undisturbed" in runs:
        killed, undisturbed = runs["killed"], runs["undisturbed"]
        held["learning resumes"] = all(k["labels_after"] >= k["labels_before"] for k in killed["kills"])
        held["accuracy within half a point"] = abs(killed["accuracy"] - undisturbed["accuracy"]) <= 0.005
    if "shifted" in runs:
        shifted = runs["shifted"]
        held["the change is noticed"] = shifted["drift_alarms"] > 0
        held["accuracy comes back to within three points"] = shifted["at_end"] >= shifted["before_shift"] - 0.03
    if comparable(runs):
        held["the released algorithm is worse"] = runs["shifted, plain"]["at_end"] < runs["shifted"]["at_end"]
    return held


def comparable(runs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the released algorithm, which has no budget, made about as many LLM calls as the stream it is held to."""
    if "shifted" not in runs or "shifted, plain" not in runs:
        return False
    return abs(runs["shifted, plain"]["llm_share"] - runs["shifted"]["llm_share"]) <= EQUAL_CALLS


def table(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    runs = found["runs"]
    rows = [(label, *(_cell(run, key) for run in runs.values())) for label, key in _ROWS]
    kills = [
        f"- {name}: killed after {k['answered_before']:,} answers with {k['labels_before']:,} labels learned; away "
        f"{k['away_s']:.1f} s, in which {k['answered_meanwhile']:,} queries were answered; back with "
        f"{k['labels_after']:,} labels, {k['learned_again']:,} events learned again from the journal"
        for name, run in runs.items()
        for k in run["kills"]
    ]
    held = [f"- {what}: {'yes' if ok else 'NO'}" for what, ok in found["held"].items()]
    about = [
        f"{next(iter(runs.values()))['queries']:,} queries are repeated passes over the {found['texts']:,} texts of "
        f"{found['file']}, each pass in another order: most texts come more than once, which is easier than a stream "
        "of new ones."
    ]
    if "shifted, plain" in runs:
        about.append("`shifted, plain` is the released algorithm on the same small models (not BERT), by a price.")
        if not comparable(runs):
            about.append(
                f"At {runs['shifted, plain']['llm_share']:.1%} of LLM calls its accuracy does not compare with that "
                "of the other runs; online_cascade.md compares at equal calls."
            )
    parts = [" ".join(about), markdown(("", *runs), rows), "\n".join(kills), "\n".join(held)]
    parts.append(one_line(found["environment"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy along each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for number, (name, run) in enumerate(found["runs"].items()):
        ends = np.linspace(0, run["queries"], len(run["curve"]) + 1)[1:]
        axes.plot(ends, run["curve"], label=name, color=f"C{number}", linewidth=1.2)
        for kill in run["kills"]:
            axes.axvline(kill["answered_before"], color=f"C{number}", linestyle=":", linewidth=0.9)
    axes.set(xlabel="queries", ylabel=f"accuracy of {WINDOW:,} queries", title="dotted: the Learner is killed")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)


_ROWS: Sequence[tuple[str, str]] = (
    ("queries", "queries"),
    ("failed", "failed"),
    ("accuracy", "accuracy"),
    ("accuracy, last quarter", "accuracy_last_quarter"),
    ("accuracy before the change", "before_shift"),
    ("accuracy just after it", "at_shift"),
    ("accuracy at the end", "at_end"),
    ("share of LLM calls", "llm_share"),
    ("alarms looked into", "drift_looks"),
    ("changes noticed", "drift_alarms"),
    ("queries a second", "queries_per_second"),
)


def _cell(run: Mapping[str, Any], key: str) -> Any:
    value = run.get(key)
    return f"{value:.4f}" if isinstance(value, float) and value <= 1 else value


def _whole(run: Mapping[str, Any]) -> bool:
    learned = run["learned"]
    counted = learned["queries"] == run["queries"] - run["failed"]
    return counted and learned["lost"] == 0 and learned["labelled"] + learned["unparsed"] == learned["llm_calls"]
