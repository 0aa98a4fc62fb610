"""What another local user can do to an endpoint: runs in a child process that has given up all privileges.

Everything is tried by hand: files are opened, sockets connected and commanded, ports queried over HTTP and gRPC, among
them with a pickle that makes a folder where it is unpickled. Nothing else is changed; what was possible is reported.
"""

import contextlib
import encodings.idna  # noqa: F401 - needed by connect, and out of reach once the privileges are gone
import errno
import multiprocessing
import os
import pickle
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc

OTHER_UID = 65534
_TIMEOUT_S = 3.0
_MOST_BYTES = 64 * 2**20
_PATHS = ("/", "/metrics", "/-/routes", "/-/healthz", "/health", "/health/ready", "/v1/models", "/v1/decisions/x",
          "/stats", "/api/serve/applications/", "/api/version", "/get_runtime_envs_info", "/logs")  # fmt: skip
_CALLS = {
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo": b"",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys": b"",
    "/ray.rpc.InternalKVGcsService/GetInternalConfig": b"",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo": b"",
    "/ray.rpc.NodeManagerService/GetNodeStats": b"",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats": b"",
}
"""Calls that change nothing: the GCS's, the raylet's, and those of every Ray worker."""
_SERVE_CALL = "/ray.serve.ASGIService/HandleRequest"
_REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED}  # fmt: skip


Names = Callable[[bytes], tuple[str, ...]]
"""Which secrets are in the data."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is tried. `secrets`: name to text; `listeners`: role and port; `pids`: role of each; `mark`: a free path."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """In these folders, as root sees them."""
    sockets: tuple[str, ...]
    listeners: tuple[tuple[str, int], ...]
    pids: Mapping[int, str]
    secrets: Mapping[str, str]
    mark: str


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that was possible: `what` (file, socket, process, http, grpc), where, and what it showed."""

    what: str
    where: str
    answer: str = ""
    secrets: tuple[str, ...] = ()


def try_as_other_user(targets: Targets) -> tuple[dict[str, int], list[Access]]:
    """Tried how often by kind, and what was possible. Needs root. Raises RuntimeError if the child fails."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(targets, there))
    child.start()
    there.close()
    try:
        tried, found = here.recv()
    except EOFError as e:
        raise RuntimeError("the process of the other user failed; see its traceback") from e
    finally:
        child.join()
    return tried, [Access(**{**access, "secrets": tuple(access["secrets"])}) for access in found]


def _child(targets: Targets, out: Connection) -> None:
    os.setgroups([])
    os.setresgid(OTHER_UID, OTHER_UID, OTHER_UID)
    os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
    os.chdir("/")
    tried: dict[str, int] = {}
    found = []
    for kind, attempts in _attempts(targets):
        for attempt in attempts:
            tried[kind] = tried.get(kind, 0) + 1
            if attempt is not None:
                found.append(asdict(attempt))
    out.send((tried, found))


def _attempts(targets: Targets) -> Iterator[tuple[str, Iterator[Access | None]]]:
    def names(data: bytes) -> tuple[str, ...]:
        return tuple(name for name, text in targets.secrets.items() if text.encode() in data)

    yield "file", _files(targets.folders, targets.files, names)
    yield "socket", _sockets(targets.folders, targets.sockets, names)
    yield "process", _processes(targets.pids, names)
    yield "http", _http(targets.listeners, targets.secrets, names)
    yield "grpc", _grpc(targets.listeners, targets.mark)


def entries(folders: Iterable[str], kind: Callable[[int], bool]) -> Iterator[str]:
    """Paths below the folders whose mode is of that kind, as far as this user may look."""
    for folder in folders:
        for here, _, files in os.walk(folder):
            for name in files:
                path = os.path.join(here, name)
                with contextlib.suppress(OSError):
                    if kind(os.lstat(path).st_mode):
                        yield path


def _files(folders: Sequence[str], known: Iterable[str], names: Names) -> Iterator[Access | None]:
    for path in [*folders, *sorted({*known, *entries(folders, stat.S_ISREG)})]:
        try:
            if os.path.isdir(path):
                yield Access("folder", path) if os.access(path, os.W_OK) and path != "/dev/shm" else None
                continue
            with open(path, "rb") as file:
                yield Access("file", path, "", names(file.read(_MOST_BYTES)))
        except OSError:
            yield None


def _sockets(folders: Sequence[str], known: Iterable[str], names: Names) -> Iterator[Access | None]:
    for path in sorted({*known, *entries(folders, stat.S_ISSOCK)}):
        address = "\0" + path[1:] if path.startswith("@") else path
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_TIMEOUT_S)
                client.connect(address)
                answer = b""
                with contextlib.suppress(OSError):
                    client.sendall(b"show env\n")
                    while piece := client.recv(65536):
                        answer += piece
            yield Access("socket", path, f"connected, {len(answer)} bytes", names(answer))
        except OSError as e:
            # a socket of datagrams accepts no stream, but it could be written to
            yield Access("socket", path, "connected") if e.errno == errno.EPROTOTYPE else None


def _processes(pids: Mapping[int, str], names: Names) -> Iterator[Access | None]:
    for pid, role in pids.items():
        for part in ("environ", "cmdline", "maps", "mem"):
            try:
                with open(f"/proc/{pid}/{part}", "rb") as file:
                    data = file.read(_MOST_BYTES)
            except OSError:
                yield None
                continue
            yield Access("process", f"{role} {part}", "", names(data)) if part != "cmdline" or names(data) else None


def _http(listeners: Iterable[tuple[str, int]], secrets: Mapping[str, str], names: Names) -> Iterator[Access | None]:
    body = b'{"model": "jethro", "messages": [{"role": "user", "content": "what is 1 + 1?"}]}'
    post = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    post += b"connection: close\r\ncontent-length: %d\r\n" % len(body)
    for role, port in listeners:
        for path in _PATHS:
            line = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            yield _request(role, port, f"GET {path}", line.encode(), names)
        for title, key in (("without a key", b""), ("with a wrong key", b"authorization: Bearer wrong\r\n")):
            yield _request(role, port, f"POST {title}", post + key + b"\r\n" + body, names)
        if role != "HAProxy":  # a caller of the endpoint who tries to pass by its front
            key = f"authorization: Bearer {secrets['caller key']}\r\n\r\n".encode()
            yield _request(role, port, "POST with a caller's key", post + key + body, names)


def _request(role: str, port: int, title: str, data: bytes, names: Names) -> Access | None:
    """None unless it is answered with success, or the answer contains a secret."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as client:
        client.settimeout(_TIMEOUT_S)
        client.sendall(data)
        while len(answer) < _MOST_BYTES and (piece := client.recv(65536)):
            answer += piece
    status = answer.split(b" ", 2)[1].decode("latin-1") if answer.startswith(b"HTTP/1") else ""
    if not status.startswith("2") and not names(answer):
        return None
    return Access("http", f"{role}: {title}", f"{status}, {len(answer)} bytes", names(answer))


class _Mark:
    """Pickled, it is a call that makes a folder wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def _grpc(listeners: Iterable[tuple[str, int]], mark: str) -> Iterator[Access | None]:
    for role, port in listeners:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method, data in _CALLS.items():
                if (code := _called(channel, method, data)) not in _REFUSED:
                    yield Access("grpc", f"{role}: {method}", "" if code is None else code.name)
                else:
                    yield None
            place = f"{mark}-{port}"
            pickled = pickle.dumps(_Mark(place))
            # field 1 of ASGIRequest, the metadata: a tag, the length, the bytes
            _called(channel, _SERVE_CALL, b"\x0a" + bytes([len(pickled)]) + pickled)
            if Path(place).is_dir():
                yield Access("grpc", f"{role}: {_SERVE_CALL}", "ran code of the caller's")
            else:
                yield None


def _called(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode | None:
    """The error's code; None for success."""
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    try:
        call(data, timeout=_TIMEOUT_S)
    except grpc.RpcError as e:
        # a server that speaks HTTP/2 but not gRPC, such as HAProxy, answers with a status of HTTP
        code: grpc.StatusCode = grpc.StatusCode.UNIMPLEMENTED if "http2 header" in e.details() else e.code()
        return code
    return None
