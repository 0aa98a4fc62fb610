"""The picture: accuracy over the share of LLM calls, and accuracy along a stream whose labels are swapped half-way."""

from pathlib import Path
from typing import Any

from benchmarks.online_cascade.figures import WINDOW
from benchmarks.online_cascade.methods import CASCADE, PLAIN
from benchmarks.stamp import one_line


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(result.get("shift", {}))
    figure = Figure(figsize=(6.4 * panels, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _budgets(axes[0], result)
    for panel, (share, methods) in zip(axes[1:], result.get("shift", {}).items(), strict=True):
        _shifted(panel, result, share, methods)
    figure.supxlabel(one_line(result["environment"]), fontsize=5.5, color="#777777")
    figure.savefig(path, metadata={"Software": None})


def _budgets(axes: Any, result: dict[str, Any]) -> None:
    budgets = list(result["budgets"].values())
    for name in budgets[0]:
        ones = [budget[name] for budget in budgets]
        at = [100 * one["share"]["mean"] for one in ones]
        at = at if name == PLAIN else [100 * budget[CASCADE]["share"]["mean"] for budget in budgets]
        mean = [100 * one["accuracy"]["mean"] for one in ones]
        style = {"linewidth": 2.4, "color": "black"} if name == CASCADE else {"linewidth": 1.1}
        half = [100 * one["accuracy"]["half"] for one in ones]
        style |= {"linestyle": ":", "color": "brown"} if name == PLAIN else {}
        axes.errorbar(at, mean, yerr=half, capsize=2, marker="o", markersize=3, label=name, **style)
    llm = 100 * result["llm"]["accuracy"]["mean"]
    axes.axhline(llm, linestyle="--", color="#777777", linewidth=1, label="LLM alone")
    for bar in result["bars"]:
        axes.plot([100 * bar["share"]], [100 * bar["bar"]], marker="_", markersize=14, color="red")
    axes.set(xlabel="LLM calls, % of queries", ylabel="accuracy, %")
    axes.set_title(f"{result['data']}: {result['queries']:,} queries, {result['seeds']} seeds", fontsize=10)
    axes.grid(alpha=0.25)
    axes.set_xlim(right=100)
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def _shifted(axes: Any, result: dict[str, Any], share: str, methods: dict[str, Any]) -> None:
    for name, one in methods.items():
        at = [WINDOW * (i + 0.5) for i in range(len(one["windows"]))]
        axes.plot(at, [100 * w for w in one["windows"]], marker="o", markersize=3, label=name)
    axes.axvline(result["queries"] // 2, linestyle="--", color="#777777", linewidth=1, label="labels swapped")
    axes.set(xlabel="queries", ylabel=f"accuracy of each {WINDOW}, %")
    axes.set_title(f"swapped labels, {float(share):.0%} of LLM calls", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
