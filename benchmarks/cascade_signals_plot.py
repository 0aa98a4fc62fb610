"""The picture of `benchmarks.cascade_signals`: how well each signal separates right from wrong, and what it saves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app import plots

MARKERS = {"whole": ("o", "#cc3311"), "1": ("^", "#4477aa"), "2": ("s", "#228833"), "3": ("D", "#aa3377")}
"""By how many tokens of the answer were judged."""


def draw(rows: Sequence[Mapping[str, Any]], target: str, caption: str, path: Path) -> None:
    """Write a PNG: AUC, strong calls and quality drop with its 95 % interval, a line for each signal.

    A row has `signal`, `tokens`, `auc`, `strong_share`, `drop`, `drop_low` and `drop_high`, shares of 1.
    """
    names = list(dict.fromkeys(row["signal"] for row in rows))[::-1]
    figure, (quality, calls, drop) = plots.new_figure(3, 3.7, 0.27 * len(names) + 1.4, sharey=True)
    for number, (tokens, (marker, color)) in enumerate(MARKERS.items()):
        own = [row for row in rows if row["tokens"] == tokens]
        at = [names.index(row["signal"]) for row in own]
        style: dict[str, Any] = {
            "marker": marker,
            "color": color,
            "linestyle": "",
            "markersize": 9 - 2 * number,
            "zorder": 5 + number,
        }
        label = "whole answer" if tokens == "whole" else f"first {tokens} token{'s' * (tokens != '1')}"
        quality.plot([row["auc"] for row in own], at, label=label, **style)
        calls.plot([100 * row["strong_share"] for row in own], at, **style)
        middle = [100 * row["drop"] for row in own]
        ends = [
            [100 * (row["drop"] - row["drop_low"]) for row in own],
            [100 * (row["drop_high"] - row["drop"]) for row in own],
        ]
        drop.errorbar(middle, at, xerr=ends, elinewidth=0.7, **style)
    quality.set_yticks(range(len(names)), names, fontsize=8)
    quality.legend(fontsize=7, loc="upper left")
    for axes, title in ((quality, "AUC"), (calls, "strong calls, %"), (drop, "quality drop, % [95 %]")):
        axes.set_title(f"{title}", fontsize=9)
    figure.suptitle(f"fitted to {target}; {caption}", fontsize=6, color="#777777")
    plots.save(figure, path)
