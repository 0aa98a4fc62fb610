"""`jethro dashboards` against a double of Grafana's API in an old and a new version, and against ones that refuse."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.observability.grafana import client
from serve_app.observability.grafana.boards import read_boards
from tests.observability.grafana.grafana_server import TOKEN, GrafanaState, grafana

PROMETHEUS = "http://prometheus:9090"
BOARDS = {"jethro-overview", "jethro-routing", "jethro-pools", "jethro-cascade-learner", "jethro-kubernetes"}
Served = tuple[str, GrafanaState]


@pytest.fixture(params=[9, 13], ids=["Grafana 9", "Grafana 13"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with grafana(request.param) as running:
        yield running


def run(*arguments: str, token: str | None = TOKEN) -> Result:
    env = {"GRAFANA_TOKEN": token, "GRAFANA_URL": None, "PROMETHEUS_URL": None}
    done = CliRunner().invoke(app, ["dashboards", *arguments], env=env)
    assert "Traceback" not in done.output and (done.exception is None or isinstance(done.exception, SystemExit))
    assert token is None or token not in done.output
    return done


def push(url: str, *arguments: str, token: str | None = TOKEN) -> Result:
    return run("push", "--url", url, "--prometheus-url", PROMETHEUS, *arguments, token=token)


def test_a_second_push_finds_nothing_to_do(served: Served) -> None:
    url, state = served
    first = push(url)
    assert first.exit_code == 0, first.output
    assert first.output.count(": created") == 2 + len(BOARDS)
    assert [f["title"] for f in state.folders.values()] == ["Jethro"]
    assert {name: s["url"] for name, s in state.sources.items()} == {"Prometheus": PROMETHEUS}
    assert set(state.boards) == BOARDS and set(state.folder_of.values()) == {"jethro"}
    for board in state.boards.values():
        (variable,) = board["templating"]["list"]
        assert variable["current"]["value"] == state.sources["Prometheus"]["uid"]
    before, writes = json.dumps(state.boards), len(state.writes)
    second = push(url)
    assert second.exit_code == 0 and second.output.count(": unchanged") == 2 + len(BOARDS)
    assert len(state.writes) == writes and json.dumps(state.boards) == before
    assert {board["version"] for board in state.boards.values()} == {1}
    assert state.tokens == {f"Bearer {TOKEN}"}


def test_only_calls_that_every_version_answers_are_made(served: Served) -> None:
    url, state = served
    push(url)
    run("diff", "--url", url)
    known = r"/api/(folders(/[\w-]+)?|datasources(/name/\w+)?|dashboards/(db|uid/[\w-]+)|search\?[\w=&-]+)"
    assert state.requests
    for method, path, _ in state.requests:
        assert method in ("GET", "POST") and re.fullmatch(known, path), path


def test_a_dry_run_changes_nothing(served: Served) -> None:
    url, state = served
    done = push(url, "--dry-run")
    assert done.exit_code == 0 and done.output.count("would be created") == 2 + len(BOARDS)
    assert state.writes == []
    push(url)
    state.boards["jethro-routing"]["title"] = "Mine"
    writes = len(state.writes)
    done = push(url, "--dry-run")
    assert done.output.count("would be updated") == 1 and len(state.writes) == writes


def test_a_dashboard_that_was_changed_or_moved_is_updated_alone(served: Served) -> None:
    url, state = served
    push(url)
    state.boards["jethro-routing"]["panels"][0]["title"] = "Mine"
    state.folders["other"] = {"id": 9, "uid": "other", "title": "Other"}
    state.folder_of["jethro-pools"] = "other"
    done = push(url)
    assert done.output.count(": updated") == 2 and done.output.count(": unchanged") == len(BOARDS)
    assert state.boards["jethro-routing"]["version"] == 2 and state.folder_of["jethro-pools"] == "jethro"
    assert state.boards["jethro-routing"]["panels"][0]["title"] != "Mine"


def test_a_folder_made_by_hand_and_a_source_that_is_there_are_used(served: Served) -> None:
    url, state = served
    state.folders["byhand"] = {"id": 1, "uid": "byhand", "title": "Team X"}
    state.sources["My Mimir / EU"] = {"id": 1, "uid": "m1", "name": "My Mimir / EU", "type": "prometheus", "url": "x"}
    done = run("push", "--url", url, "--folder", "Team X", "--datasource", "My Mimir / EU")
    assert done.exit_code == 0, done.output
    assert len(state.folders) == 1 and len(state.sources) == 1 and set(state.folder_of.values()) == {"byhand"}


def test_an_editors_token_pushes_with_the_uid_of_a_source_that_it_may_not_read(served: Served) -> None:
    url, state = served
    for method in ("GET", "POST"):
        state.fail[method, "/api/datasources"] = 403
    done = run("push", "--url", url)
    assert done.exit_code == 2 and "give the uid of one in --datasource-uid" in done.output
    for _ in range(2):
        done = run("push", "--url", url, "--datasource-uid", "m1")
        assert done.exit_code == 0, done.output
    assert done.output.count(": unchanged") == 2 + len(BOARDS)
    assert {b["templating"]["list"][0]["current"]["value"] for b in state.boards.values()} == {"m1"}


def test_a_source_that_is_missing_or_another_is_no_guess(served: Served) -> None:
    url, state = served
    done = run("push", "--url", url)
    assert done.exit_code == 2 and "no data source 'Prometheus'" in done.output and "--prometheus-url" in done.output
    state.sources["Prometheus"] = {
        "id": 1,
        "uid": "p",
        "name": "Prometheus",
        "type": "prometheus",
        "url": "http://else",
    }
    done = push(url)
    assert done.exit_code == 2 and "is for http://else" in done.output
    state.sources["Prometheus"]["type"] = "loki"
    done = push(url)
    assert done.exit_code == 2 and "is no Prometheus but 'loki'" in done.output
    assert state.boards == {} and len(state.sources) == 1


def test_diff_shows_what_differs(served: Served) -> None:
    url, state = served
    done = run("diff", "--url", url)
    assert done.exit_code == 1 and done.output.count("not in Grafana") == len(BOARDS)
    push(url)
    done = run("diff", "--url", url)
    assert done.exit_code == 0 and "all the same" in done.output
    state.boards["jethro-overview"]["panels"][0]["title"] = "Mine"
    done = run("diff", "--url", url)
    assert done.exit_code == 1 and "1 of 5 dashboards differ" in done.output
    assert '-      "title": "Mine",' in done.output.splitlines()


def test_what_is_pulled_can_be_pushed(served: Served, tmp_path: Path) -> None:
    url, state = served
    assert "push some first" in run("pull", str(tmp_path), "--url", url).output
    push(url)
    state.boards["jethro-overview"]["title"] = "Mine"
    state.boards["other"] = {**state.boards["jethro-overview"], "uid": "other", "title": "Not ours", "tags": []}
    state.folder_of["other"] = "jethro"
    assert run("pull", str(tmp_path / "none"), "--url", url, "--dry-run").output.count("would be written") == len(
        BOARDS
    )
    assert not (tmp_path / "none").exists()
    done = run("pull", str(tmp_path / "out"), "--url", url)
    assert done.exit_code == 0, done.output
    pulled = {board["uid"]: board for board in read_boards(tmp_path / "out")}
    assert set(pulled) == BOARDS and pulled["jethro-overview"]["title"] == "Mine"
    assert not {"id", "version"} & set(pulled["jethro-overview"])
    assert run("diff", "--url", url, "--from", str(tmp_path / "out")).exit_code == 0
    assert push(url, "--from", str(tmp_path / "out")).output.count(": unchanged") == 2 + len(BOARDS)


def test_exported_files_are_those_of_the_package(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dashboards", "export", str(tmp_path / "boards")])
    assert done.exit_code == 0 and read_boards(tmp_path / "boards") == read_boards()


@pytest.mark.parametrize(
    ("failing", "status", "said"),
    [
        (("GET", "/api/folders"), 403, "may not read folders (403): dashboards and folders need the role Editor"),
        (("POST", "/api/folders"), 403, "may not create the folder Jethro (403)"),
        (("POST", "/api/folders"), 409, "could not create the folder Jethro (409)"),
        (("POST", "/api/folders"), 412, "could not create the folder Jethro (412)"),
        (("GET", "/api/datasources"), 403, "(403): data sources need the role Admin"),
        (("POST", "/api/datasources"), 403, "may not create the data source Prometheus (403)"),
        (("POST", "/api/datasources"), 409, "could not create the data source Prometheus (409)"),
        (("POST", "/api/dashboards/db"), 400, "could not save the dashboard"),
        (("POST", "/api/dashboards/db"), 403, "may not save the dashboard"),
        (("POST", "/api/dashboards/db"), 404, "(404): check --url, and that the folder still exists"),
        (
            ("POST", "/api/dashboards/db"),
            412,
            "(412): it was changed meanwhile, or another in the folder has its title",
        ),
        (("POST", "/api/dashboards/db"), 500, "failed to save the dashboard"),
        (("GET", "/api/dashboards/uid"), 502, "failed to read the dashboard"),
    ],
)
def test_what_grafana_refuses_is_said(served: Served, failing: tuple[str, str], status: int, said: str) -> None:
    url, state = served
    state.fail[failing] = status
    done = push(url)
    assert done.exit_code == 2 and done.output.count("error: ") == 1
    assert said in done.output and f"made to fail with {status}" in done.output


def test_another_of_the_same_title_is_not_overwritten(served: Served) -> None:
    url, state = served
    push(url)
    mine = state.boards.pop("jethro-routing")
    state.boards["mine"], state.folder_of["mine"] = {**mine, "uid": "mine"}, "jethro"
    done = push(url)
    assert done.exit_code == 2 and "(412)" in done.output and "same name in the folder" in done.output
    assert state.boards["mine"]["version"] == 1


def test_a_change_made_meanwhile_is_not_lost(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    url, state = served
    push(url)
    state.boards["jethro-routing"]["title"] = "Mine"
    save = client.Grafana.save

    def later(self: client.Grafana, board: dict[str, object], folder: str, version: int | None) -> dict[str, object]:
        state.boards["jethro-routing"] |= {"title": "Theirs", "version": 2}
        return save(self, board, folder, version)

    monkeypatch.setattr(client.Grafana, "save", later)
    done = push(url)
    assert done.exit_code == 2 and "(412)" in done.output and state.boards["jethro-routing"]["title"] == "Theirs"


@pytest.mark.parametrize("command", [("push",), ("diff",), ("pull", "nowhere")])
def test_a_wrong_token_and_none(served: Served, command: tuple[str, ...]) -> None:
    url, state = served
    done = run(*command, "--url", url, token="glsa_wrong")
    assert done.exit_code == 2 and "refuses the token (401): export GRAFANA_TOKEN" in done.output
    count = len(state.requests)
    done = run(*command, "--url", url, token=None)
    assert done.exit_code == 2 and "no Grafana token: export GRAFANA_TOKEN" in done.output
    assert len(state.requests) == count


@pytest.mark.parametrize("command", [("push",), ("diff",), ("pull", "nowhere")])
def test_a_dead_host_and_a_slow_one(served: Served, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = run(*command, "--url", dead)
    assert done.exit_code == 2 and f"no Grafana at {dead}: start it, or give --url" in done.output
    url, state = served
    monkeypatch.setattr(client.Grafana.__init__, "__kwdefaults__", {"ca": None, "timeout_s": 0.2})
    state.hangs.set()
    done = run(*command, "--url", url)
    assert done.exit_code == 2 and "did not answer within 0.2 s" in done.output


@pytest.mark.parametrize("url", ["grafana:3000", "ftp://grafana", "http://", "https://me:secret@grafana"])
def test_a_url_that_is_none(url: str) -> None:
    done = run("push", "--url", url)
    assert done.exit_code == 2 and "--url" in done.output and "secret" not in done.output


def test_a_server_that_is_no_grafana(served: Served) -> None:
    url, _ = served
    done = push(f"{url}/somewhere/else")
    assert done.exit_code == 2 and "(404): check --url" in done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no title"),
        ('{"title": "x", "uid": "a b", "panels": []}', "uid is 1 to 40 letters"),
        ('{"title": "x", "uid": "x"}', "no panels"),
    ],
)
def test_files_that_are_no_dashboards(served: Served, tmp_path: Path, text: str, said: str) -> None:
    url, state = served
    assert "no dashboards" in push(url, "--from", str(tmp_path)).output
    (tmp_path / "x.json").write_text(text)
    done = push(url, "--from", str(tmp_path))
    assert done.exit_code == 2 and said in done.output and "x.json" in done.output
    assert state.requests == []


def test_two_files_of_one_dashboard(served: Served, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"uid": "same", "title": name, "panels": []}))
    done = push(served[0], "--from", str(tmp_path))
    assert done.exit_code == 2 and "two dashboards have the uid 'same'" in done.output


def test_help_never_shows_a_token() -> None:
    for command in ("push", "diff", "pull"):
        done = CliRunner().invoke(app, ["dashboards", command, "--help"], env={"GRAFANA_TOKEN": TOKEN})
        assert done.exit_code == 0 and TOKEN not in done.output and "GRAFANA_TOKEN" in done.output
