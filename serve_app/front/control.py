"""What the process that started an endpoint does with its front: drain it, and remove what is left of it.

In a pod, `python -m serve_app.front.control FOLDER SECONDS` is the hook before the end (`preStop`).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from serve_app.front.supervisor import command

_LOOK_S = 0.1


async def drain(folder: Path, longest_s: float) -> bool:
    """Accept nothing more, and wait until what is open is finished. False if it was not in time."""
    sockets = await asyncio.to_thread(lambda: [p for p in folder.rglob("*.sock") if p.is_socket()])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await asyncio.gather(*(_drained(socket) for socket in sockets))
            return True
    return False


async def _drained(socket: Path) -> None:
    with contextlib.suppress(ConnectionError, FileNotFoundError):  # it has ended
        await command(socket, "jethro drain")
        while not json.loads(await command(socket, "jethro front"))["ended"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_LOOK_S)


def sweep(folder: Path) -> None:
    """Kill the processes whose command line names the folder, so that none holds the endpoint's port."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in file.read_bytes() and int(file.parent.name) != os.getpid():
                os.kill(int(file.parent.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(drain(Path(sys.argv[1]), float(sys.argv[2]))) else 1)
