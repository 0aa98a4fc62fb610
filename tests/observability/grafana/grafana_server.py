"""A double of Grafana's HTTP API as its documentation describes it, in version 9 or 13; it keeps every request.

Method, path and body are checked: what Grafana has no route for is 404, a body without what it requires 400. Version 13
answers no call by number, and migrates the dashboards that it stores to its own schema.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "glsa_" + "t" * 20
Answer = tuple[int, Any]


class GrafanaState:
    """What one Grafana holds. `fail`: (method, path prefix) to the status that it answers with instead."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.folders: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.folder_of: dict[str, str] = {}
        self.fail: dict[tuple[str, str], int] = {}
        self.hangs = threading.Event()
        self.released = threading.Event()
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    def answer(self, method: str, target: str, body: Any) -> Answer:
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        for (failing, prefix), status in self.fail.items():
            if failing == method and path.startswith(prefix):
                return status, {"message": f"made to fail with {status}"}
        if re.fullmatch(r"/api/(datasources|folders/id|dashboards/id)/\d+", path) and self.version >= 12:
            return 404, {"message": "Not found"}  # by number: disabled
        for pattern, handler in (
            (r"GET /api/folders", self._folders),
            (r"GET /api/folders/([\w-]+)", self._folder),
            (r"POST /api/folders", self._create_folder),
            (r"GET /api/datasources/name/(.+)", self._source),
            (r"POST /api/datasources", self._create_source),
            (r"GET /api/dashboards/uid/([\w-]+)", self._board),
            (r"POST /api/dashboards/db", self._save),
        ):
            if match := re.fullmatch(pattern, f"{method} {path}"):
                return handler(*match.groups(), **({"body": body} if method == "POST" else {}))
        if f"{method} {path}" == "GET /api/search":
            return self._search(query)
        return 404, {"message": "Not found"}

    def _folders(self) -> Answer:
        return 200, [{"id": f["id"], "uid": f["uid"], "title": f["title"]} for f in self.folders.values()]

    def _folder(self, uid: str) -> Answer:
        found = self.folders.get(uid)
        return (200, found) if found else (404, {"message": "folder not found", "status": "not-found"})

    def _create_folder(self, *, body: Any) -> Answer:
        if set(body) - {"uid", "title", "parentUid", "description"} or not body.get("title"):
            return 400, {"message": "bad request data"}
        if body["uid"] in self.folders:
            return (412 if self.version >= 12 else 409), {"message": "the folder has been changed by someone else"}
        if self.version < 12 and any(f["title"] == body["title"] for f in self.folders.values()):
            return 409, {"message": "a folder with the same name already exists"}
        made = {"id": len(self.folders) + 1, "uid": body["uid"], "title": body["title"], "version": 1}
        self.folders[body["uid"]] = made
        return 200, made

    def _source(self, name: str) -> Answer:
        found = self.sources.get(name)
        return (200, found) if found else (404, {"message": "Data source not found"})

    def _create_source(self, *, body: Any) -> Answer:
        if not all(body.get(key) for key in ("name", "type", "access", "url")):
            return 400, {"message": "bad request data"}
        if body["name"] in self.sources:
            return 409, {"message": "data source with the same name already exists"}
        made = {**body, "id": len(self.sources) + 1, "uid": f"ds{len(self.sources) + 1}"}
        self.sources[body["name"]] = made
        return 200, {"datasource": made, "id": made["id"], "message": "Datasource added", "name": body["name"]}

    def _board(self, uid: str) -> Answer:
        board = self.boards.get(uid)
        if board is None:
            return 404, {"message": "Dashboard not found"}
        folder = self.folder_of[uid]
        meta = {"url": f"/d/{uid}", "folderUid": folder, "folderTitle": self.folders[folder]["title"]}
        return 200, {"dashboard": board, "meta": meta | ({"folderId": 1} if self.version < 12 else {})}

    def _save(self, *, body: Any) -> Answer:
        board = body.get("dashboard") or {}
        if not board.get("title"):
            return 400, {"message": "Dashboard title cannot be empty", "status": "empty-name"}
        if body.get("folderUid") not in self.folders:
            return 404, {"message": "folder not found", "status": "not-found"}
        uid, before = board["uid"], self.boards.get(board["uid"])
        if not body.get("overwrite"):
            same = [u for u, b in self.boards.items() if u != uid and b["title"] == board["title"]]
            if any(self.folder_of[u] == body["folderUid"] for u in same):
                return 412, {"message": "A dashboard with the same name in the folder exists", "status": "name-exists"}
            if before is not None and board.get("version") != before["version"]:
                return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        stored = {**board, "id": len(self.boards) + 1, "version": before["version"] + 1 if before else 1}
        if self.version >= 12:
            stored["schemaVersion"] = 42
            stored["panels"] = [{**p, "pluginVersion": "13.0.0"} for p in stored["panels"]]
        self.boards[uid], self.folder_of[uid] = stored, body["folderUid"]
        return 200, {
            "id": stored["id"],
            "uid": uid,
            "url": f"/d/{uid}",
            "status": "success",
            "version": stored["version"],
        }

    def _search(self, query: dict[str, list[str]]) -> Answer:
        if query.get("type") != ["dash-db"]:
            return 400, {"message": "only dashboards here"}
        tags = set(query.get("tag", []))
        found = [board for board in self.boards.values() if tags <= set(board["tags"])]
        return 200, [{"uid": b["uid"], "title": b["title"], "type": "dash-db", "tags": b["tags"]} for b in found]


@contextmanager
def grafana(version: int) -> Iterator[tuple[str, GrafanaState]]:
    """The URL of a running one, and what it holds."""
    state = GrafanaState(version)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            state.requests.append((self.command, self.path, body))
            state.tokens.add(self.headers.get("authorization") or "")
            if state.hangs.is_set():
                state.released.wait(30)
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                status, answer = 401, {"message": "Invalid API key"}
            else:
                status, answer = state.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: a client that gives up on a slow answer is meant to."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
