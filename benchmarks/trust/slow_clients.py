"""Many clients that keep connections open and are slow on them, in a process of their own.

Each does one thing until the end and connects again whenever its connection is closed: `header`, a line of the headers
every few seconds without an end; `body`, a whole head and then a byte of the body each second; `reader`, a request for
a long stream of which nothing is read.
"""

import asyncio
import contextlib
import multiprocessing
import resource
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

_LINE_S = 3.0
_BYTE_S = 1.0
_AGAIN_S = 0.5
_CONNECT_S = 20.0
_CONNECTING = 200
"""Connections that are being opened at once."""


@dataclass(frozen=True, slots=True)
class SlowClients:
    """`kind` of clients, how many, from which addresses, and the key that they send ("" for none)."""

    kind: str
    count: int
    sources: Sequence[str]
    key: str = ""
    model: str = "jethro"


def raise_open_files() -> int:
    """As many open files as this process may have; returns the number."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextlib.contextmanager
def slow_clients(clients: SlowClients, port: int) -> Iterator[dict[str, Any]]:
    """They run during the block; afterwards the dict says how many were open at most and what they were answered."""
    found: dict[str, Any] = {}
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(clients, port, there))
    process.start()
    there.close()
    try:
        here.recv()  # all have tried to connect
        yield found
        here.send("end")
        found.update(here.recv())
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _main(clients: SlowClients, port: int, main: Connection) -> None:
    raise_open_files()
    asyncio.run(_Crowd(clients, port).run(main))


class _Crowd:
    def __init__(self, clients: SlowClients, port: int) -> None:
        self._clients, self._port = clients, port
        self._open = self._most = self._connected = 0
        self._answers: Counter[str] = Counter()
        self._connecting = asyncio.Semaphore(_CONNECTING)
        self._tried = 0

    async def run(self, main: Connection) -> None:
        sources = self._clients.sources
        tasks = [asyncio.create_task(self._client(sources[i % len(sources)])) for i in range(self._clients.count)]
        until = monotonic() + 60
        while self._tried < self._clients.count and monotonic() < until:  # noqa: ASYNC110 - clients count themselves
            await asyncio.sleep(0.1)
        main.send("ready")
        while not main.poll():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CONNECT_S)
        main.send({"most_open": self._most, "connections": self._connected, "answers": dict(self._answers)})

    async def _client(self, source: str) -> None:
        first = True
        while True:
            try:
                async with self._connecting, asyncio.timeout(_CONNECT_S):
                    reader, writer = await self._connect(source)
            except (OSError, TimeoutError) as e:
                self._answers[type(e).__name__] += 1
                await asyncio.sleep(_AGAIN_S)
                continue
            finally:
                self._tried += first
                first = False
            self._open, self._connected = self._open + 1, self._connected + 1
            self._most = max(self._most, self._open)
            try:
                await self._slow(reader, writer)
            except OSError as e:
                self._answers[type(e).__name__] += 1
            finally:
                self._open -= 1
                writer.transport.abort()
            await asyncio.sleep(_AGAIN_S)

    async def _connect(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind((source, 0))
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self._port))
            return await asyncio.open_connection(sock=client, limit=4096)
        except BaseException:
            client.close()
            raise

    async def _slow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._head())
        if self._clients.kind == "reader":
            line = await reader.readline()
            self._answers[_status(line)] += 1
            await asyncio.sleep(3600)
        piece, pause_s = (b"x-more: 1\r\n", _LINE_S) if self._clients.kind == "header" else (b" ", _BYTE_S)
        answer = asyncio.ensure_future(reader.readline())
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=pause_s)
                writer.write(piece)
            self._answers[_status(answer.result())] += 1
        finally:
            answer.cancel()

    def _head(self) -> bytes:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        if self._clients.kind == "header":
            return head.encode()
        head += "content-type: application/json\r\n"
        head += f"authorization: Bearer {self._clients.key}\r\n" if self._clients.key else ""
        message = '[{"role": "user", "content": "what is 1 + 1?"}]'
        body = f'{{"model": "{self._clients.model}", "stream": true, "messages": {message}}}'
        if self._clients.kind == "body":
            return f"{head}content-length: 1000\r\n\r\n".encode()
        return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def _status(line: bytes) -> str:
    return line.split(b" ")[1].decode("latin-1") if line.startswith(b"HTTP/1") else "closed"
