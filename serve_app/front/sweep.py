"""Ends what is left of an endpoint: the processes that belong to its folder.

`python -m serve_app.front.sweep FOLDER` is what the process of an endpoint becomes to end everything at once: it kills
these processes and removes the folder. No thread of the endpoint's own still starts processes or writes files then.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

_LOOK_S = 0.01
_LONGEST_S = 10.0
"""A process in the kernel's hands outlives its SIGKILL."""


def sweep(folder: Path) -> None:
    """Kill the processes that belong to the folder, so that none holds the endpoint's port, and wait for their end.

    They name it in the command line, or in the environment that they were started with.
    """
    until = monotonic() + _LONGEST_S
    while _kill(str(folder).encode()) and monotonic() < until:
        sleep(_LOOK_S)


def _kill(name: bytes) -> bool:
    """Whether there was one to be killed; a process that was killed may have started others a moment before its end."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and any(
                name in (process / file).read_bytes() for file in ("cmdline", "environ")
            ):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


def main(folder: Path) -> None:
    """Kill, and remove the folder."""
    sweep(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
