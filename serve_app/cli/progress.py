"""Progress of a long run on standard error: one line rewritten on a terminal, one every ten seconds elsewhere."""

import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import typer

from serve_app.numbers import fixed

if TYPE_CHECKING:
    from serve_app.data.collection.plan import CollectionProgress

_TERMINAL_EVERY_S: Final = 0.2
_PIPE_EVERY_S: Final = 10.0


class ProgressLine:
    """Shows some of the lines it is given, and always the last."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_s = float("-inf")

    def show(self, line: Callable[[], str], last: bool) -> None:
        """Show the line if it is due; `line` is not called otherwise."""
        now_s = monotonic()
        if not last and now_s - self._shown_s < (_TERMINAL_EVERY_S if self._terminal else _PIPE_EVERY_S):
            return
        self._shown_s = now_s
        text = line()
        typer.echo(f"\r\033[K{text}" if self._terminal else text, nl=last or not self._terminal, err=True)


def progress_text(progress: "CollectionProgress") -> str:
    """A collection's progress in one line."""
    parts = [f"{progress.done:,} of {progress.total:,}"]
    if progress.fresh and progress.elapsed_s > 0:
        parts.append(f"{fixed(progress.fresh / progress.elapsed_s, 1)} a second")
    if progress.left_s is not None and progress.done < progress.total:
        parts.append(f"{_duration(progress.left_s)} left")
    parts.append(f"${fixed(progress.spent_usd, 4)}")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.trouble and progress.done < progress.total:
        parts.append(f"retrying: {progress.trouble[:80]}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
