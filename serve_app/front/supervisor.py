"""`jethro-front`: what Serve starts in HAProxy's place. It starts HAProxy and keeps it alive.

Serve recognizes its HAProxy by pid, over the admin socket. The supervisor holds that socket, with mode 0600, and passes
commands on to the HAProxy of its own; in the answer to `show info` its own pid stands for HAProxy's. A HAProxy that
ends, or that does not answer for `_HUNG_S` (stopped, or spinning), is replaced at once.

A change of the Gateways is a new supervisor with a new HAProxy, which takes over the listening sockets of the one
before (HAProxy's `-x`); the one before finishes what it has open. The same happens where Serve's manager of HAProxy
died: the next one finds the HAProxy that still serves, and keeps its Gateways until it has learned of them itself.

The process that Serve starts is a stem: it waits for the supervisor, its child, starts another if that is killed, and
passes signals on. Where the stem is killed, or Serve's manager, the supervisor serves on for `_ORPHAN_S`.

Further commands on the socket: `jethro front` (the supervisor's pid, its HAProxy's socket, and whether that has ended)
and `jethro drain` (accept nothing more, finish what is open, and stay so that Serve starts no other). If Serve starts
one because the Gateways changed, that one accepts nothing either.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import JethroError
from serve_app.front.haproxy import error_files, hardened
from serve_app.front.settings import FrontSettings, load, private_folder, write_private

_PROBE_S = 0.5
_HUNG_S = 1.5
_START_S = 10.0
_ORPHAN_S = 60.0
"""Without the stem or Serve's manager, which started it, and without a successor."""
_RESTART_S = 0.1
_LONGEST_PAUSE_S = 2.0
_SOCKET = re.compile(r"^\s*stats socket (\S+)", re.MULTILINE)
_APPLICATION = re.compile(r"^\s*use_backend ", re.MULTILINE)
_PID = re.compile(rb"^Pid: \d+", re.MULTILINE)
_NODE = re.compile(r"[0-9a-f]{56}")
_MOST_COMMAND = 64 * 1024


async def command(socket: str | Path, line: str, timeout_s: float = _HUNG_S) -> bytes:
    """What an admin socket answers. Raises OSError (TimeoutError among them) if it does not."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            writer.write(line.encode() + b"\n")
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A HAProxy that serves already: its admin socket, and the process to send SIGUSR1 to once it may stop.

    `config`: its configuration. `manager`: the pid of Serve's manager that requires it, 0 if that is not known.
    `draining`: it accepts nothing more, and neither may its successor.
    """

    socket: str
    pid: int
    config: str
    manager: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Stem:
    """The process that Serve started, and Serve's manager, which did so."""

    pid: int
    manager: int

    @property
    def attached(self) -> bool:
        """Whether both live."""
        return os.getppid() == self.pid and _parent(self.pid) == self.manager


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


class Supervisor:
    """One HAProxy and its admin socket. `config`: the file that Serve wrote; `reuse_port`: False for HAProxy's -dR."""

    def __init__(self, settings: FrontSettings, config: Path, stem: Stem, *, reuse_port: bool) -> None:
        self._settings, self._stem = settings, stem
        self._text = config.read_text()
        match = _SOCKET.search(self._text)
        self._public = match[1] if match else ""
        # short: HAProxy takes 97 bytes, and Serve's folder of a node has a name of 56
        self._inner = str(Path(self._public).with_name(f"h{os.getpid()}"))
        self._config = config
        self._file = config.with_name(f"{config.name}.{os.getpid()}")
        self._command = [settings.haproxy, "-db", "-f", str(self._file), *([] if reuse_port else ["-dR"])]
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()
        self._over = asyncio.Event()
        self._stay = False
        self._alone_since: float | None = None
        self._info = b""

    async def run(self) -> int:
        """Serve until the work is over; the exit status. A first start that fails is HAProxy's own failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        before = await self._predecessor()
        if before is not None and before.draining:
            return await self._stand_for(before)
        self._write(before)
        if not await self._start(*(["-x", before.socket] if before else [])):
            return await self._failed()
        server = await self._listen()
        if before is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(before.pid, signal.SIGUSR1)
        try:
            await self._watch()
            self._remove_files()
            if self._stay:  # Serve must not start another: it continues to find this one
                await self._outlasted()
            return 0
        finally:
            server.close()
            self._remove_files()

    def _write(self, before: Predecessor | None) -> None:
        for name, answer in error_files().items():
            write_private(self._config.with_name(name), answer)
        text = hardened(self._text, self._settings, self._inner, str(self._config.parent))
        if before is not None and before.manager != self._stem.manager and not _APPLICATION.search(text):
            # a manager that has just started knows of no application yet, and callers are being answered
            with contextlib.suppress(OSError):
                text = Path(before.config).read_text().replace(before.socket, self._inner)
        write_private(self._file, text)

    async def _stand_for(self, before: Predecessor) -> int:
        """Take the place of a draining supervisor, without a HAProxy: for Serve, which waits for its new process."""
        self._remove_files()
        self._stay = True
        self._ending.set()
        self._info = await command(self._public, "show info")
        server = await self._listen()
        with contextlib.suppress(ProcessLookupError):
            os.kill(before.pid, signal.SIGUSR1)
        try:
            await self._outlasted()
            return 0
        finally:
            server.close()

    async def _outlasted(self) -> None:
        """Until this process is to end, or Serve has ended without a word to it."""
        while not self._over.is_set() and not self._left_behind():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_S):
                    await self._over.wait()

    def _left_behind(self) -> bool:
        """Whether Serve ended longer ago than `_ORPHAN_S`."""
        if self._stem.attached:
            return False
        self._alone_since = self._alone_since or time.monotonic()
        return time.monotonic() - self._alone_since > _ORPHAN_S

    def _remove_files(self) -> None:
        for path in (self._file, Path(self._inner)):
            path.unlink(missing_ok=True)

    def _stop(self, number: int) -> None:
        self._ending.set()
        if number != signal.SIGUSR1 or self._stay:  # one that drained is replaced
            self._over.set()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _failed(self) -> int:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.kill()
        return await process.wait() or 1

    async def _start(self, *options: str) -> bool:
        """Start HAProxy and wait until it answers."""
        loop = asyncio.get_running_loop()
        self._process = await asyncio.create_subprocess_exec(
            *self._command, *options, env={"PATH": os.environ.get("PATH", "")}
        )
        until = loop.time() + _START_S
        while self._process.returncode is None and loop.time() < until:
            with contextlib.suppress(OSError):
                self._info = await command(self._inner, "show info")
                return True
            await asyncio.sleep(0.02)
        return False

    async def _watch(self) -> None:
        """Replace a HAProxy that ended or hangs, until it is to stop; then wait for its end."""
        pause_s = 0.1
        while not self._ending.is_set():
            if not await self._alive():
                if await self._replaced():  # while this process was stopped
                    self._stop(signal.SIGUSR1)
                    break
                print("HAProxy ended or did not answer: starting another", file=sys.stderr, flush=True)
                await self._failed()
                if await self._start():
                    pause_s = 0.1
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if self._left_behind():
                self._stop(signal.SIGUSR1)
        assert self._process is not None
        await self._process.wait()

    async def _alive(self) -> bool:
        """False at once if HAProxy ends; True after a pause in which it answered."""
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({ended, stop := asyncio.ensure_future(self._ending.wait())}, timeout=_PROBE_S,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            stop.cancel()
            if self._ending.is_set():
                return True
            if ended.done():
                return False
            self._info = await command(self._inner, "show info")
            return True
        except OSError:
            return self._ending.is_set()
        finally:
            ended.cancel()

    async def _replaced(self) -> bool:
        """Whether another supervisor has taken the public socket."""
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(await command(self._public, "jethro front"))["pid"] != os.getpid())
        return False

    async def _predecessor(self) -> Predecessor | None:
        """The HAProxy that serves now: of a supervisor, or of one that was killed."""
        with contextlib.suppress(OSError, ValueError):
            front = json.loads(await command(self._public, "jethro front"))
            if front["draining"] or not front["ended"]:
                return Predecessor(front["socket"], front["pid"], front["config"], front["manager"], front["draining"])
            return None
        for path in Path(self._public).parent.glob("h[0-9]*"):
            with contextlib.suppress(OSError):
                info = await command(path, "show info")
                if match := _PID.search(info):
                    config = self._config.with_name(f"{self._config.name}.{path.name[1:]}")
                    return Predecessor(str(path), int(match[0].split()[1]), str(config))
        return None

    async def _listen(self) -> asyncio.Server:
        """Take the place of the process that holds the public socket."""
        part = f"{self._public}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._answer, part, limit=_MOST_COMMAND)
        finally:
            os.umask(mask)
        os.replace(part, self._public)
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_START_S):
                line = (await reader.readline()).decode("utf-8", "replace").strip()
                writer.write(await self._reply(line))
                await writer.drain()
        except (OSError, ValueError):  # no HAProxy at this moment, or the other end is closed
            pass
        finally:
            writer.close()

    async def _reply(self, line: str) -> bytes:
        ended = self._process is None or self._process.returncode is not None
        if line == "jethro front":
            found = {"pid": os.getpid(), "socket": self._inner, "ended": ended, "draining": self._stay}
            found |= {"config": str(self._file), "manager": self._stem.manager}
            return json.dumps(found).encode()
        if line == "jethro drain":
            if not self._stay:
                self._stop(signal.SIGUSR1)
            self._stay = True
            return b"draining\n"
        if line == "show info":
            if not self._ending.is_set():
                self._info = await command(self._inner, line)
            return _PID.sub(b"Pid: %d" % self._stem.pid, self._info)
        return await command(self._inner, line, _START_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve's command line for HAProxy: `-db -f FILE [-dR] [-sf PID...] [-x SOCKET]`.

    The last two are not needed: the socket reports which one serves now, also where Serve does not know.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.umask(0o077)
    with contextlib.suppress(PermissionError):  # it leads a group already
        os.setsid()  # Ray kills the process group of a manager that ends
    stem, ended = Stem(os.getpid(), os.getppid()), False
    children = [_fork(given, stem)]

    def pass_on(number: int, frame: object) -> None:
        nonlocal ended
        ended = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(children[-1], number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while True:
        _, status = os.waitpid(children[-1], 0)
        if ended or not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1
        time.sleep(_RESTART_S)
        children.append(_fork(given, stem))


def _fork(given: Sequence[str], stem: Stem) -> int:
    """Start the supervisor; its pid."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            status = _supervise(given, stem)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def _supervise(given: Sequence[str], stem: Stem) -> int:
    config = Path(given[given.index("-f") + 1])

    async def run() -> int:
        if _NODE.fullmatch(config.parent.name):  # Serve's folder of one node, in the one that the operator chose
            private_folder(config.parent.parent)
        private_folder(config.parent)
        return await Supervisor(load(), config, stem, reuse_port="-dR" not in given).run()

    try:
        return asyncio.run(run())
    except JethroError as e:  # Serve logs what its HAProxy says
        print(e, file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
