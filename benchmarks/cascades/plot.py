"""The picture: test quality over mean cost, one panel for each setting."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cascades.curves import Curve
from serve_app import plots

STYLES: dict[str, dict[str, Any]] = {
    "threshold": {"color": "#999999", "linestyle": "-.", "linewidth": 1.0},
    "calibrated": {"color": "#4477aa", "linewidth": 1.0},
    "routing": {"color": "#228833", "linewidth": 1.0},
    "cascade": {"color": "#aa3377", "linewidth": 1.2},
    "cascade routing": {"color": "#cc3311", "linewidth": 1.8},
    "linear": {"color": "#c46a1a", "linestyle": "--", "linewidth": 1.0},
}


def draw(
    panels: Mapping[str, tuple[Mapping[str, Curve], Mapping[str, tuple[float, float]]]], caption: str, path: Path
) -> None:
    """Write a PNG. A panel: curves by method, and single models by name as (mean cost in US dollars, quality)."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, panels_of = plots.new_figure(columns, 4.4, 3.5, rows=rows, squeeze=False)
    grid = panels_of.ravel()
    for axes, (title, (curves, singles)) in zip(grid, panels.items(), strict=False):
        dearest = max(cost for cost, _ in singles.values())
        for name, curve in curves.items():
            points = curve.points()
            points = points[points[:, 0].argsort(kind="stable")]
            axes.plot(100 * points[:, 0] / dearest, points[:, 1], label=name, **STYLES[name])
        for name, (cost, quality) in singles.items():
            axes.plot(100 * cost / dearest, quality, "k.", markersize=5)
            axes.annotate(name, (100 * cost / dearest, quality), fontsize=6, textcoords="offset points", xytext=(3, -7))
        axes.set_xlim(0, 105)
        axes.set_title(title, fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    grid[0].legend(fontsize=7, frameon=False, loc="lower right")
    figure.supxlabel("mean cost, % of the dearest model's", fontsize=9)
    figure.supylabel("test quality", fontsize=9)
    figure.suptitle(caption, fontsize=6, color="#777777")
    plots.save(figure, path)
