"""SIGINT and SIGTERM of a process that serves: blocked in every thread, and taken by one that waits for them.

Handlers would not do. Ray's core replaces that of SIGTERM by one that aborts the process (at the end of `ray.init`) and
by the default (at its shutdown), and Python runs its own in the main thread alone, which may be waiting in Ray's core.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Both signals wait until `take` takes them. Enter it before libraries start threads, which inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take(first: Callable[[], None], again: Callable[[], None]) -> None:
    """Call `first` at the first signal and `again` at each further one, in threads of their own.

    Children of this process receive the signals as usual. Inside of `held` only.
    """
    _unblock_in_children()

    def wait() -> None:
        signal.sigwait(_SIGNALS)
        threading.Thread(target=first, name="stop", daemon=True).start()
        while True:
            signal.sigwait(_SIGNALS)
            again()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def ignore() -> None:
    """From now on a signal does nothing: the process ends by itself."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def _unblock_in_children() -> None:
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS))
