"""The picture: quality against the share of strong calls."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.routing_quality.figures import Answers, best_curve, offline_curve


def draw(answers: Answers, found: dict[str, Any], caption: str, path: Path) -> None:
    """Write a PNG: the router's curve, the points measured through HTTP, random, always-small/large, the oracle."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curve, best = offline_curve(answers), best_curve(answers)
    figure, axes = pyplot.subplots(figsize=(7.2, 4.6), dpi=110)
    axes.plot(100 * best.share, 100 * best.quality, ":", color="#777777", label="oracle (knows both answers)")
    axes.plot(100 * curve.share, 100 * curve.quality, color="#1f6fb2", label="complexity router, every threshold")
    axes.plot([0, 100], [100 * curve.weak, 100 * curve.strong], "--", color="#c46a1a", label="random, expected")
    for name, colour, marker in (
        ("always small", "#555555", "v"),
        ("random", "#c46a1a", "s"),
        ("router", "#1f6fb2", "o"),
        ("always large", "#222222", "^"),
    ):
        point = found["points"][name]
        at = (100 * point["strong_share"], 100 * point["quality"])
        axes.plot(*at, marker, color=colour, markersize=9, zorder=3)
        axes.annotate(
            f"{name}: {at[1]:.1f} %",
            at,
            textcoords="offset points",
            xytext=_label_place(name),
            fontsize=9,
            color=colour,
        )
    axes.set_xlabel("strong calls, % of queries")
    axes.set_ylabel("exact answers, % (markers: measured through HTTP)")
    axes.set_title(f"{found['queries']:,} unseen lab queries, balanced over task and difficulty", fontsize=11)
    axes.set_xlim(-3, 103)
    low = min(100 * curve.weak, float(np.min(100 * curve.quality)))
    axes.set_ylim(low - 4, 102)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    figure.text(0.01, 0.005, caption, fontsize=5.5, color="#777777")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path)
    pyplot.close(figure)


def _label_place(name: str) -> tuple[int, int]:
    """Points right of and above the marker, so that labels keep off the lines."""
    return {"always large": (-100, -24), "router": (8, -14)}.get(name, (9, -12))
