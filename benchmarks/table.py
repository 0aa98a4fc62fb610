"""Markdown tables that also read well in a terminal."""

from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with aligned columns: first column to the left, the rest to the right."""
    cells = [[str(c) for c in head], *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [_line(row, widths) for row in cells]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(padded) + " |"


def _cell(value: object) -> str:
    """Three figures that count for floats; everything else as it is."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
