"""Ends vLLM's processes with the process that started them.

vLLM's engine core outlives a parent that is killed (out of memory, or by Ray) and keeps its GPU memory. vLLM injects
this class into its workers (setting `worker_extension_cls`): the worker waits for the parent's end and kills itself,
and with a worker the core and all other workers end.
"""

import os
import select
import signal
import threading


class ParentWatchdog:
    """Extension of a vLLM worker; called through `AsyncLLM.collective_rpc`. Linux, one machine."""

    def end_with_process(self, pid: int) -> None:
        """Kill this process as soon as process `pid` has ended. Raises ProcessLookupError if it has already."""
        descriptor = os.pidfd_open(pid)
        threading.Thread(target=_end_after, args=(descriptor,), name="parent-watchdog", daemon=True).start()


def _end_after(descriptor: int) -> None:
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    ended.poll()
    os.kill(os.getpid(), signal.SIGKILL)
