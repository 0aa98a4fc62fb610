"""`python -m benchmarks.trust.stop`: SIGTERM and SIGINT to `jethro serve`, with open streams and while it starts.

What must hold: everything that is open is finished within `gateway.drain_s`, nothing new is accepted, a second signal
ends at once, a signal while it starts ends the start; the exit status is 0, and no process, no file, no traceback is
left. `--checkout` serves another checkout, such as one of the commit before.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import orjson
import psutil

from benchmarks.connection import Address, Connection, Reply
from benchmarks.process import ROOT, stop_in_order_on_sigterm
from benchmarks.script import prompt
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.remote import tree, upstream, url_of
from benchmarks.trust.results import FOLDER, write

CALLERS, PIECE_MS, PIECES = 32, 250, 32
DRAIN_S, SHORT_DRAIN_S = 20.0, 4.0
MOMENTS_S = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
_END_S = 60.0
"""More than any drain and Ray's own end; what takes longer counts as hung."""


@dataclass(slots=True)
class Stopped:
    """How one endpoint ended. `status` is None if it had to be killed."""

    case: str
    signal: str
    status: int | None = None
    seconds: float = 0.0
    """From the (last) signal to the end of the process."""
    left_over: list[str] = field(default_factory=list)
    """Files in the temporary folder, and processes, one second after the end."""
    traceback: bool = False
    finished: int = 0
    """Streams that ended with [DONE]."""
    error_events: int = 0
    """Streams that ended with an error event."""
    cut: int = 0
    """Streams that ended with neither."""
    accepted: int = 0
    """New connections that were accepted later than half a second after the signal."""

    def clean(self) -> bool:
        """Whether the process ended well and left nothing."""
        return self.status == 0 and not self.left_over and not self.traceback


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of a short name: sockets are in it, whose path is bounded."""
    folder = Path(f"/tmp/t{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        for process in _processes_of(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def endpoint(url: str, folder: Path, checkout: Path, drain_s: float = DRAIN_S) -> Endpoint:
    """With one Gateway, whose temporary files are in `folder`."""
    config = tree(url, gateway={"replicas": 1, "drain_s": drain_s})
    return Endpoint("stop", config, checkout=checkout, env={"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)})


async def with_streams(served: Endpoint, case: str, number: signal.Signals, *, pieces: int, again: bool) -> Stopped:
    """32 streams, a signal after one second, with `again` another one a second later; until everything has ended."""
    found = Stopped(case, number.name)
    address = Address.of(f"{served.url}/v1")
    body = {"model": "jethro", "stream": True, "max_tokens": pieces}
    request = address.post("/chat/completions", orjson.dumps(body | {"messages": [_message()]}))
    streams = [asyncio.create_task(_stream(address, request)) for _ in range(CALLERS)]
    await asyncio.sleep(1.0)
    served.process.send_signal(number)
    signaled_s = monotonic()
    knocking = asyncio.create_task(_knock(address, found))
    if again:
        await asyncio.sleep(1.0)
        served.process.send_signal(number)
        signaled_s = monotonic()
    found.status, found.seconds = await asyncio.to_thread(_until_ended, served, signaled_s)
    knocking.cancel()
    for reply in await asyncio.gather(*streams):
        last = reply.events[-1][1] if reply.events else b""
        found.finished += last == b"[DONE]" and not _is_error(reply)
        found.error_events += _is_error(reply)
    found.cut = CALLERS - found.finished - found.error_events
    return found


async def _stream(address: Address, request: bytes) -> Reply:
    connection = await Connection.open(address)
    try:
        return await connection.exchange(request, timeout_s=2 * _END_S)
    except (TimeoutError, ConnectionError):
        return Reply()
    finally:
        connection.close()


async def _knock(address: Address, found: Stopped) -> None:
    """Ask for new connections until cancelled, and count those that are accepted."""
    await asyncio.sleep(0.5)
    while True:
        with contextlib.suppress(OSError):
            (await Connection.open(address, 1.0)).close()
            found.accepted += 1
        await asyncio.sleep(0.2)


def while_starting(served: Endpoint, folder: Path, after_s: float, number: signal.Signals) -> Stopped:
    """A signal so long after its first line. Before that line there is nothing that could be left over."""
    served.start()
    while served.process.poll() is None and not served.tail():
        sleep(0.01)
    sleep(after_s)
    served.process.send_signal(number)
    found = Stopped(f"start, after {after_s:g} s", number.name)
    found.status, found.seconds = _until_ended(served, monotonic())
    look(found, served, folder)
    return found


def _until_ended(served: Endpoint, since_s: float) -> tuple[int | None, float]:
    while served.process.poll() is None and monotonic() < since_s + _END_S:
        sleep(0.05)
    seconds = monotonic() - since_s
    status = served.process.poll()
    if status is None:
        served.process.kill()
        served.process.wait()
    return status, seconds


def look(found: Stopped, served: Endpoint, folder: Path) -> None:
    """Note what is left over, a second after the end, and remove it."""
    sleep(1.0)
    found.left_over = sorted(path.name for path in folder.iterdir())
    for process in _processes_of(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.left_over.append(process.name())
            process.kill()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    found.traceback = "Traceback" in served.tail(100_000)


def _processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.environ().get("TMPDIR", "") or str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found


def _is_error(reply: Reply) -> bool:
    return any(b'"error"' in event for _, event in reply.events)


def _message() -> dict[str, str]:
    return {"role": "user", "content": prompt(PIECE_MS)}


def serving(url: str, folder: Path, checkout: Path) -> Iterator[Stopped]:
    """The cases in which it serves."""
    cases = [("32 streams", number, DRAIN_S, PIECES, False) for number in (signal.SIGTERM, signal.SIGINT)]
    cases += [("32 streams, a second signal", signal.SIGTERM, DRAIN_S, PIECES, True)]
    cases += [("32 streams longer than the drain", signal.SIGTERM, SHORT_DRAIN_S, 4 * PIECES, False)]
    for case, number, drain_s, pieces, again in cases:
        served = endpoint(url, folder, checkout, drain_s)
        with served:
            found = asyncio.run(with_streams(served, case, number, pieces=pieces, again=again))
            look(found, served, folder)
        yield found


def starting(url: str, folder: Path, checkout: Path, moments_s: Sequence[float]) -> Iterator[Stopped]:
    """The moments of a start, with both signals in turn."""
    for i, after_s in enumerate(moments_s):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        yield while_starting(endpoint(url, folder, checkout), folder, after_s, number)


def marks(found: Sequence[Stopped]) -> dict[str, bool]:
    """What has to hold."""
    served = [f for f in found if not f.case.startswith("start")]
    second = [f for f in served if "second" in f.case]
    longer = [f for f in served if "longer" in f.case]
    drained = [f for f in served if f not in second and f not in longer]
    return {
        "exit status 0, no traceback, nothing left over": all(f.clean() for f in found),
        "all open streams are finished": all(f.finished == CALLERS for f in drained),
        f"within the drain of {DRAIN_S:g} s": all(f.seconds < DRAIN_S for f in drained),
        "no new connection is accepted": all(f.accepted == 0 for f in served),
        "a second signal ends it within 2 s": all(f.seconds < 2 for f in second),
        "streams longer than the drain end with an error event": all(f.error_events == CALLERS for f in longer),
        f"within 15 s of the drain of {SHORT_DRAIN_S:g} s": all(f.seconds < SHORT_DRAIN_S + 15 for f in longer),
        "a signal while it starts ends it within 5 s": all(f.seconds < 5 for f in found if f not in served),
    }


def table(found: dict[str, Any]) -> str:
    """All as markdown."""
    head = ["", "signal", "exit status", "ended after, s", "[DONE]", "error event", "cut", "accepted", "left over"]
    rows = []
    for c in found["cases"]:
        left = ", ".join([*c["left_over"], *(["traceback"] if c["traceback"] else [])]) or "nothing"
        counts = [c["finished"], c["error_events"], c["cut"], c["accepted"]]
        status = "killed" if c["status"] is None else c["status"]
        rows.append([c["case"], c["signal"], status, round(c["seconds"], 1), *counts, left])
    return "\n\n".join(
        [
            "# SIGTERM and SIGINT",
            f"{found['setting']} {one_line(found['environment'])}",
            markdown(head, rows).rstrip(),
            "\n".join(f"- {text}: {'yes' if ok else 'NO'}" for text, ok in found["marks"].items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and markdown; 1 if a mark does not hold."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.stop", description=__doc__.splitlines()[0])
    p.add_argument("--checkout", type=Path, default=ROOT, help="the checkout that serves")
    p.add_argument("--moments", type=float, nargs="*", default=MOMENTS_S, metavar="SECONDS", help="signals in a start")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    setting = (
        f"`jethro serve` with one Gateway and one fake upstream, {CALLERS} streams of {PIECES * PIECE_MS / 1e3:g} s, "
        f"gateway.drain_s {DRAIN_S:g} (longer streams: {4 * PIECES * PIECE_MS / 1e3:g} s, {SHORT_DRAIN_S:g})."
    )
    found: dict[str, Any] = {"benchmark": "trust_stop", "environment": environment(), "setting": setting}
    cases = []
    with upstream("trust_stop_upstream") as server, temporary_folder() as folder:
        url, checkout = url_of(server), args.checkout.resolve()
        for case in chain(serving(url, folder, checkout), starting(url, folder, checkout, args.moments)):
            print(case, file=sys.stderr, flush=True)
            cases.append(case)
    found |= {"cases": [asdict(case) for case in cases], "marks": marks(cases)}
    write(args.out, "trust_stop", found, table(found))
    return 0 if all(found["marks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
