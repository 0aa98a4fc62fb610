"""The picture: what the cascade as it ships gains over each method, for each stream and share of LLM calls."""

from pathlib import Path
from typing import Any

from benchmarks.skewed_streams.runs import CASCADE
from benchmarks.stamp import one_line

_MARKERS = "osD^v"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: a panel for each stream, points side by side at each share, bars of two standard errors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(result["streams"]), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(result["streams"]), squeeze=False)[0]
    for axes, (name, shares) in zip(panels, result["streams"].items(), strict=True):
        _panel(axes, shares)
        title = f"two thirds {name}" if name != "even" else "even labels"
        axes.set_title(f"{title}: {result['queries'][name]:,} queries, {result['seeds']} seeds", fontsize=10)
    panels[0].set_ylabel("accuracy of the cascade minus that of the method, points")
    panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel(one_line(result["environment"]), fontsize=5.5, color="#777777")
    figure.savefig(path, metadata={"Software": None})


def _panel(axes: Any, shares: dict[str, Any]) -> None:
    methods = [method for method in next(iter(shares.values())) if method != CASCADE]
    for i, method in enumerate(methods):
        at = [place + 0.12 * (i - (len(methods) - 1) / 2) for place in range(len(shares))]
        means = [100 * one[method]["against"]["mean"] for one in shares.values()]
        errors = [200 * one[method]["against"]["error"] for one in shares.values()]
        style = {"marker": _MARKERS[i], "markersize": 5, "linestyle": "none", "capsize": 2}
        axes.errorbar(at, means, yerr=errors, label=f"over {method}", **style)
    axes.axhline(0.0, color="#777777", linewidth=1)
    axes.set_xticks(range(len(shares)), [f"{float(share):.0%}" for share in shares])
    axes.set_xlabel("LLM calls, % of queries")
    axes.grid(axis="y", alpha=0.25)
