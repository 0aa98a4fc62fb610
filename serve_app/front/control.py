"""What the process that started an endpoint does with its front: drain it.

In a pod, `python -m serve_app.front.control FOLDER SECONDS --after PAUSE` is the hook before the end (`preStop`): it
pauses until the pod is an endpoint of no service, then drains.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from serve_app.front.supervisor import command

_LOOK_S = 0.1


async def drain(folder: Path, longest_s: float) -> bool:
    """Accept nothing more, and wait until what is open is finished. False if it was not in time.

    What is open may be so in a HAProxy of before the last change of the Gateways, too. A connection that is kept alive
    counts until its next answer or its end: HAProxy does not close it, since a request may be on its way.
    """
    sockets = await asyncio.to_thread(lambda: [p for p in folder.rglob("*.sock") if p.is_socket()])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await asyncio.gather(*(_begin(socket) for socket in sockets))
            while await asyncio.to_thread(_open, folder):  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(_LOOK_S)
            return True
    return False


async def _begin(socket: Path) -> None:
    with contextlib.suppress(ConnectionError, FileNotFoundError):  # it has ended
        while True:
            with contextlib.suppress(TimeoutError):  # stopped, or short of CPU
                await command(socket, "jethro drain")
                return


def _open(folder: Path) -> list[Path]:
    """Configurations of the HAProxies that run: a supervisor removes its own, named by its pid, after the last byte."""
    files = folder.rglob("*.cfg.*")
    return [file for file in files if file.suffix[1:].isdigit() and Path("/proc", file.suffix[1:]).exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The hook before a pod's end; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.front.control", description=__doc__)
    parser.add_argument("folder", type=Path, help="where HAProxy's configuration and sockets are")
    parser.add_argument("seconds", type=float, help="longest wait for open requests")
    parser.add_argument("--after", type=float, default=0.0, metavar="PAUSE", help="seconds before the drain begins")
    given = parser.parse_args(arguments)
    time.sleep(given.after)
    if not asyncio.run(drain(given.folder, given.seconds)):
        print(f"connections are open after {given.seconds:g} s", file=sys.stderr)
    return 0  # an idle connection is no failure of the hook


if __name__ == "__main__":
    sys.exit(main())
