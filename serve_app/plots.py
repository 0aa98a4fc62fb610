"""The one style of result plots: figures, colors by order, and markers that are not hidden behind each other.

Nothing here knows what is plotted. Raises DependencyError without matplotlib.
"""

from pathlib import Path
from typing import Any, Final

from serve_app.errors import needs_extra

COLORS: Final = ("#1f6fb2", "#c46a1a", "#2a8c4a", "#aa3377", "#7a5fc0", "#b8860b", "#0f8a8a", "#cc3311")
"""Of the things that are compared, in their order."""
GREY: Final = "#777777"
"""Of what they are compared with."""
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZE, _EACH = 13.0, 2.0
_DPI: Final = 130
_STYLE: Final = {"axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "axes.titlesize": 10}


def new_figure(
    panels: int = 1, width: float = 5.6, height: float = 4.2, *, rows: int = 1, **options: Any
) -> tuple[Any, Any]:
    """A figure of panels side by side (and in `rows`), inches each, and its axes: one, or an array of them.

    `options` are those of matplotlib's `subplots`. Lines and bars take the colors in order.
    """
    with needs_extra("plots need matplotlib", "train"):
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.rcsetup import cycler
    figure = Figure(figsize=(width * panels, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    with rc_context({**_STYLE, "axes.prop_cycle": cycler(color=list(COLORS))}):
        return figure, figure.subplots(rows, panels, **options)


def color(number: int) -> str:
    """The color of the nth thing compared."""
    return COLORS[number % len(COLORS)]


def mark(axes: Any, number: int, at: tuple[float, float], label: str, filled: bool = True, **more: Any) -> None:
    """The nth marker of a panel: each has a shape of its own, is smaller than those before and is drawn over them.

    So that of several markers at one place each is seen. `filled`: False for what is only a reference.
    """
    own = more.pop("color", color(number))
    size = max(_SIZE - _EACH * number, 4.0)
    face = {"markerfacecolor": own, "markeredgecolor": "white"} if filled else {"markerfacecolor": "white"}
    style = {"markersize": size, "color": own, "linestyle": "none", "zorder": 5 + number, **face, **more}
    axes.plot([at[0]], [at[1]], _MARKERS[number % len(_MARKERS)], label=label, **style)


def finish(axes: Any, title: str, **labels: Any) -> None:
    """Labels, title, grid and legend of a panel."""
    axes.set(**labels)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)


def caption(figure: Any, text: str) -> None:
    """A small line below: what was measured, where and when."""
    figure.supxlabel(text, fontsize=5.5, color=GREY)


def save(figure: Any, path: Path) -> None:
    """Write a PNG that is the same for the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
