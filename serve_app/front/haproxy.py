"""Serve's HAProxy configuration, made safe: a function from text to text.

What Serve writes (Ray 2.60) has an admin socket that everybody may command, statistics and metrics on all interfaces,
a fallback to a port that another endpoint may hold, no limit on how long a request may take to arrive, and errors in
plain text. Lines that are not known here stay as they are; `Unexpected` if one that must change is missing, since a
configuration that is only half safe must not serve.
"""

import json
import re
import resource
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from serve_app.errors import JethroError
from serve_app.front.settings import PROOF_HEADER, FrontSettings

_SECTION = re.compile(r"^(global|defaults|frontend|backend|listen)\b\s*(\S*)")
_DROPPED_SECTIONS = {("frontend", "prometheus"), ("listen", "stats")}
_CALLERS = "http_frontend"
_SERVER = re.compile(r"^\s+server (\S+) (\S+:\d+) check")
_FALLBACK = re.compile(r"^\s+server .* backup$")
_ERRORS = {
    400: ("invalid_request_error", "bad_request", "The request is not complete or not valid HTTP: send it again."),
    408: ("invalid_request_error", "request_timeout", "The request did not arrive in time: send it again."),
    413: ("invalid_request_error", "body_too_large", "The request is too large."),
    429: ("rate_limit_error", "overloaded", "Too many requests: try again after a while."),
    500: ("server_error", None, "The endpoint failed: try again."),
    502: ("server_error", "bad_gateway", "The Gateway broke off before it answered: try again."),
    503: ("server_error", "pool_unavailable", "No Gateway is ready: try again after a while."),
    504: ("server_error", "deadline_exceeded", "The Gateway did not answer in time."),
}


class Unexpected(JethroError):
    """Serve's configuration is not of the form that can be made safe."""


def hardened(text: str, settings: FrontSettings, socket: str, errors: str) -> str:
    """The configuration with `socket` as its admin socket and answers of `error_files` in folder `errors`.

    Raises Unexpected.
    """
    done: set[str] = set()
    lines = [
        line for name, section in _sections(text) for line in _section(name, section, settings, socket, errors, done)
    ]
    missing = {"socket", "maxconn", "defaults", "bind", "not found"} - done
    if missing:
        raise Unexpected(f"Ray Serve's HAProxy configuration has no {sorted(missing)[0]} line: use Ray 2.60")
    return "\n".join(lines) + "\n"


def _sections(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    name, section = ("", ""), list[str]()
    for line in text.splitlines():
        if match := _SECTION.match(line):
            yield name, section
            name, section = (match[1], match[2]), []
        section.append(line)
    yield name, section


def _section(
    name: tuple[str, str], lines: Iterable[str], settings: FrontSettings, socket: str, errors: str, done: set[str]
) -> Iterator[str]:
    if name in _DROPPED_SECTIONS:
        return
    for line in lines:
        word = line.strip()
        if word.startswith("stats socket "):
            done.add("socket")
            yield f"    stats socket {socket} mode 600 level admin expose-fd listeners"
        elif name[0] == "global" and word.startswith("maxconn "):
            done.add("maxconn")
            yield f"    maxconn {_connections(settings)}"
        elif name[0] == "defaults" and word == "mode http":
            done.add("defaults")
            yield line
            yield from _defaults(settings, errors)
        elif name[0] == "defaults" and word.startswith(("errorfile ", "timeout client ", "timeout http-request ")):
            continue
        elif name[1] == _CALLERS and word.startswith("bind "):
            done.add("bind")
            yield _bind(settings.host, line) if settings.host else line
            yield from _callers(settings)
        elif word.startswith("http-request return status 404 content-type text/plain"):
            done.add("not found")
            # Serve says 404 for as long as it knows of no application: at the start, and after its manager's
            yield "    http-request deny deny_status 503"
        elif not _FALLBACK.match(line):
            yield line
            if name[0] == "backend" and (server := _SERVER.match(line)):
                yield from _last_resort(server[1], server[2])


def _last_resort(name: str, address: str) -> Iterator[str]:
    """The Gateway once more, for the time in which none passes its checks: one that is busy answers late, not never."""
    yield "    option allbackups"
    yield f"    server last-{name} {address} backup"


def _bind(host: str, line: str) -> str:
    address = f"[{host}]" if ":" in host else host
    return f"    bind {address}:{line.rpartition(':')[2].strip()}{' v4v6' if host == '::' else ''}"


def _defaults(settings: FrontSettings, errors: str) -> Iterator[str]:
    yield f"    timeout http-request {round(settings.header_s * 1000)}ms"
    yield f"    timeout client {round(settings.silence_s * 1000)}ms"
    yield "    timeout check 1s"
    yield from (f"    errorfile {status} {errors}/{status}.http" for status in _ERRORS)


def _connections(settings: FrontSettings) -> int:
    """HAProxy does not start where it may not open the files: two for each connection, and a pipe for every fourth."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return settings.connections if files < 0 else max(16, min(settings.connections, (files - 256) * 2 // 5))


def _callers(settings: FrontSettings) -> Iterator[str]:
    most = int(_connections(settings) * settings.share_per_source)
    yield "    stick-table type ipv6 size 100k expire 1m store conn_cur"
    yield "    tcp-request connection track-sc0 src"
    yield f"    tcp-request connection reject if {{ sc0_conn_cur gt {most} }}"
    # Serve answers with the id that it is given; the Gateway logs it if it is short and visible
    yield "    http-request del-header x-request-id if { req.fhdr_cnt(x-request-id) gt 1 }"
    yield "    http-request del-header x-request-id if !{ req.fhdr(x-request-id) -m reg '^[!-~]{1,128}$' }"
    # else Serve reads a body before the Gateway has seen the key; the Gateway watches for the disconnect itself
    yield "    http-request set-header x-request-disconnect-disabled ?1"
    if settings.token:
        yield f"    http-request set-header {PROOF_HEADER} {settings.token}"


def error_files() -> dict[str, str]:
    """Answers of HAProxy's own with OpenAI's error object, by file name: whole responses."""
    files = {}
    for status, (kind, code, message) in _ERRORS.items():
        body = _body(kind, code, message)
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
        head += [f"content-length: {len(body)}", "cache-control: no-cache", "connection: close"]
        head += ["retry-after: 1"] if status in (429, 503) else []
        files[f"{status}.http"] = "\r\n".join([*head, "", body])
    return files


def _body(kind: str, code: str | None, message: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
