"""The picture: quality drop over cost advantage, a panel for each pair and metric."""

from pathlib import Path
from typing import Any

from benchmarks.hybrid_llm.figures import SHARES
from benchmarks.hybrid_llm.report import NAMES, in_order
from benchmarks.stamp import one_line
from serve_app import plots

_STYLES = {
    "r_det": (plots.color(4), "-"),
    "r_prob": (plots.color(0), "-"),
    "r_trans": (plots.color(2), "-"),
    "complexity": (plots.GREY, "-."),
}


def draw(found: dict[str, Any], path: Path) -> None:
    """Write a PNG."""
    metrics = found["metrics"]
    figure, panels = plots.new_figure(3, 3.7, 3.3, rows=len(metrics), squeeze=False)
    for row, (metric, pairs) in zip(panels, metrics.items(), strict=True):
        for axes, (name, gap, figures) in zip(row, in_order(pairs), strict=True):
            _panel(axes, figures)
            axes.set_title(f"{name} ({gap})", fontsize=10)
        row[0].set_ylabel(f"drop, % of always-large\n{NAMES[metric].split(' (')[0]}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("cost advantage, % of queries to the small model", fontsize=9)
    panels[0][0].legend(fontsize=8, frameon=False, loc="upper left")
    plots.caption(figure, one_line(found["environment"]))
    plots.save(figure, path)


def _panel(axes: Any, figures: dict[str, Any]) -> None:
    shares = 100 * SHARES
    for router, (colour, line) in _STYLES.items():
        values = figures["routers"][router]
        axes.plot(shares, [100 * d for d in values["curve"]], line, color=colour, label=router, linewidth=1.4)
    axes.plot(shares, [100 * d for d in figures["oracle"]["curve"]], ":", color="#222222", label="oracle")
    end = figures["quality"]["gap"] / figures["quality"]["large"]
    axes.plot([0, 100], [0, 100 * end], "--", color=plots.color(1), label="random")
    axes.set_xlim(0, 80)
    axes.set_ylim(-1.5, 100 * end * 0.4)
