"""How far a benchmark is that asks many queries."""

import sys
import time
from collections.abc import Callable


def progress(name: str, total: int) -> Callable[[int], None]:
    """Prints a line every tenth of the way."""
    started = time.perf_counter()
    step = max(1, total // 10)

    def report(done: int) -> None:
        if done % step == 0 or done == total:
            rate = done / (time.perf_counter() - started)
            print(f"{name}: {done:,} of {total:,} answered, {rate:.0f} a second", file=sys.stderr, flush=True)

    return report
