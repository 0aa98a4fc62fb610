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
_OUTPUTS = ("fd/1", "fd/2")
_DEAD = ("Z", "X")


def sweep(folder: Path, *, children: bool = False) -> None:
    """Kill the processes that belong to the folder, so that none holds the endpoint's port, and wait for their end.

    They name it in the command line or in the environment that they were started with, or write their output to a file
    in it: a worker of Ray overwrites both names with its title. `children`: also this process's own, which do not name
    it yet while they are being started.
    """
    until = monotonic() + _LONGEST_S
    while _kill(str(folder).encode(), children) and monotonic() < until:
        sleep(_LOOK_S)


def _kill(name: bytes, children: bool) -> bool:
    """Whether there was one to be killed; a process that was killed may have started others a moment before its end."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and (
                (children and _is_child(process))
                or any(name in (process / file).read_bytes() for file in ("cmdline", "environ"))
                or any(name in os.readlink(bytes(process / file)) for file in _OUTPUTS)
            ):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


def _is_child(process: Path) -> bool:
    state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    return int(parent) == os.getpid() and state not in _DEAD


def main(folder: Path) -> None:
    """Kill, and remove the folder: again, where a process wrote to it in the moment of its end."""
    until = monotonic() + _LONGEST_S
    while monotonic() < until:
        sweep(folder, children=True)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        sleep(_LOOK_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
