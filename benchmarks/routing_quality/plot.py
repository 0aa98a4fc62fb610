"""The picture: quality against the share of strong calls."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.routing_quality.figures import Answers, best_curve, offline_curve
from serve_app import plots


def draw(answers: Answers, found: dict[str, Any], caption: str, path: Path) -> None:
    """Write a PNG: the router's curve, the points measured through HTTP, random, always-small/large, the oracle."""
    curve, best = offline_curve(answers), best_curve(answers)
    figure, axes = plots.new_figure(1, 7.2, 4.6)
    axes.plot(100 * best.share, 100 * best.quality, ":", color=plots.GREY, label="oracle (knows both answers)")
    axes.plot(100 * curve.share, 100 * curve.quality, color=plots.color(0), label="complexity router, every threshold")
    axes.plot([0, 100], [100 * curve.weak, 100 * curve.strong], "--", color=plots.color(1), label="random, expected")
    colors = {"always small": "#555555", "random": plots.color(1), "router": plots.color(0), "always large": "#222222"}
    for number, (name, color) in enumerate(colors.items()):
        point = found["points"][name]
        at = (100 * point["strong_share"], 100 * point["quality"])
        plots.mark(axes, number, at, "", color=color)
        axes.annotate(
            f"{name}: {at[1]:.1f} %",
            at,
            textcoords="offset points",
            xytext=_label_place(name),
            fontsize=9,
            color=color,
        )
    axes.set_xlabel("strong calls, % of queries")
    axes.set_ylabel("exact answers, % (markers: measured through HTTP)")
    axes.set_title(f"{found['queries']:,} unseen lab queries, balanced over task and size", fontsize=11)
    axes.set_xlim(-3, 103)
    low = min(100 * curve.weak, float(np.min(100 * curve.quality)))
    axes.set_ylim(low - 4, 102)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    plots.caption(figure, caption)
    plots.save(figure, path)


def _label_place(name: str) -> tuple[int, int]:
    """Points right of and above the marker, so that labels keep off the lines."""
    return {"always large": (-100, -24), "router": (8, -14)}.get(name, (9, -12))
