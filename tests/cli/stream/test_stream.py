"""`jethro stream` against the API over fake pools, and offline."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic, sleep

import pytest

from tests.api.server import serving
from tests.streams.served import stream_services

CREATE = ("stream", "create", "mood", "--labels", "joy, fear", "--instruction", "Name the feeling.")


@pytest.fixture
def url(tmp_path):
    with serving(lambda: stream_services(tmp_path / "streams")) as base:
        yield base


@pytest.fixture
def made(run, url):
    assert run(*CREATE, "--levels", "logistic", "--url", url).exit_code == 0
    return url


def write(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_create_list_status_budget_delete(run, url):
    assert run("stream", "list", "--url", url).stdout.endswith("`jethro stream create`\n")
    result = run(*CREATE, "--levels", "logistic", "--llm-share", "0.3", "--url", url)
    assert "model jethro-stream-mood; at most 30.0 % of 5,000 queries" in result.stdout
    assert run("stream", "list", "--url", url).stdout.startswith("mood: learning, 0 queries (logistic 0.0 %")
    told = run("stream", "status", "mood", "--url", url)
    assert told.stdout.startswith("stream mood (jethro-stream-mood): learning\n")
    assert json.loads(run("stream", "status", "mood", "--json", "--url", url).stdout)["labels"] == ["joy", "fear"]
    changed = run("stream", "budget", "mood", "--mu", "0.5", "--url", url)
    assert changed.stdout.startswith("stream mood: ") and changed.stdout.endswith("mu = 0.5\n")
    assert run("stream", "delete", "mood", "--url", url).stdout.startswith("stream mood is deleted")
    gone = run("stream", "status", "mood", "--url", url)
    assert (gone.exit_code, "No stream 'mood'" in gone.stderr) == (2, True)


@pytest.mark.parametrize(("labels", "message"), [("joy", "at least 2"), ("joy,JOY", "look alike"), ("", "at least 2")])
def test_labels_that_are_none(run, url, labels, message):
    result = run("stream", "create", "mood", "--labels", labels, "--instruction", "x", "--url", url)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_changed_label_set_needs_reset(run, made):
    changed = ("stream", "create", "mood", "--labels", "joy,anger", "--instruction", "Name the feeling.")
    changed += ("--levels", "logistic", "--url", made)
    refused = run(*changed)
    assert (refused.exit_code, "409" in refused.stderr, "reset" in refused.stderr) == (2, True, True)
    assert run(*changed, "--reset").exit_code == 0


def test_replay_over_http_tells_accuracy_and_shares(run, made, tmp_path):
    rows = [{"text": f"word{i % 3} full of joy", "label": "joy"} for i in range(30)]
    rows += [{"text": f"thing{i % 3} that brings fear", "label": "joy"} for i in range(10)]
    path = write(tmp_path, rows)
    result = run("stream", "replay", path, "--stream", "mood", "--label", "label", "--concurrency", "3", "--url", made)
    assert result.exit_code == 0, result.stderr
    assert "40 answers" in result.stdout
    assert "accuracy 0.75" in result.stdout
    assert "40 of 40" in result.stderr

    def queries() -> int:
        return json.loads(run("stream", "status", "mood", "--json", "--url", made).stdout)["figures"]["queries"]

    until = monotonic() + 10  # the Gateway counts a query after its answer has left
    while queries() < 40 and monotonic() < until:
        sleep(0.05)
    assert queries() == 40


def test_failed_requests_are_counted_and_end_in_status_1(run, made, tmp_path):
    path = write(tmp_path, [{"text": "joy"}, {"text": "x" * 30_000}])
    result = run("stream", "replay", path, "--stream", "mood", "--url", made)
    assert result.exit_code == 1
    assert "1 answers" in result.stdout
    assert "1 requests failed" in result.stdout


def test_it_says_why_requests_fail_even_if_all_do(run, made, tmp_path):
    result = run("stream", "replay", write(tmp_path, [{"text": "x" * 30_000}]), "--stream", "mood", "--url", made)
    assert result.exit_code == 1
    assert "1 failed: 400: messages: " in result.stderr


@contextmanager
def answering(*replies):
    """A fake of an endpoint behind something that spoils its answers: (status, headers, body) in turn."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {}, '{"labels": ["joy", "fear"]}')

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self._send(*left.pop(0))

        def _send(self, status, headers, body):
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


WHOLE = json.dumps({"choices": [{"message": {"content": "joy"}}]})
OURS = {"x-jethro-model": "jethro-stream-mood", "x-jethro-pool": "logistic"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [(OURS, "{"), (OURS, "[]"), (OURS, '{"choices": []}'), (OURS, WHOLE.replace('"joy"', "null")), ({}, WHOLE)],
)
def test_an_answer_that_is_none_of_the_endpoints_is_one_failed_request(run, tmp_path, headers, body):
    path = write(tmp_path, [{"text": "a"}, {"text": "b"}])
    with answering((200, headers, body), (200, OURS, WHOLE)) as url:
        result = run("stream", "replay", path, "--stream", "mood", "--concurrency", "1", "--url", url)
    assert result.exit_code == 1
    assert "1 answers, logistic 100.0 %" in result.stdout
    assert "1 failed: 200: " in result.stderr


def test_who_is_to_come_again_at_a_date_comes_again(run, tmp_path):
    later = (503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "{}")
    with answering(later, (200, OURS, WHOLE)) as url:
        result = run("stream", "replay", write(tmp_path, [{"text": "a"}]), "--stream", "mood", "--url", url)
    assert (result.exit_code, "1 answers" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("", (), "there is no row in it"),
        ('{"text": "x"}\n', ("--label", "y"), "no column 'y'"),
        ('{"text": "x", "y": "anger"}\n', ("--label", "y"), "is no label"),
    ],
)
def test_bad_files_are_one_clear_line(run, made, tmp_path, content, more, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    result = run("stream", "replay", str(path), "--stream", "mood", "--url", made, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_stream_that_is_not_there(run, url, tmp_path):
    result = run("stream", "replay", write(tmp_path, [{"text": "x"}]), "--stream", "none", "--url", url)
    assert (result.exit_code, "No stream 'none'" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a/b", "../mood", "mood?x=1", "mood#", "", "Mood", "größe"])
def test_a_name_that_is_none_is_not_found(run, made, name):
    for command in (("status", name), ("delete", name), ("budget", name, "--mu", "1")):
        result = run("stream", *command, "--url", made)
        assert (result.exit_code, "No stream" in result.stderr) == (2, True), command
    assert run("stream", "status", "mood", "--url", made).exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--labels", "joy"), "labels: 1 labels: give 2 to 100"),
        (("--labels", "joy,JOY"), "look alike"),
        (("--labels", "joy,fear", "--llm-share", "2"), "llm_share: 2 is no share"),
        (("--labels", "joy,fear", "--llm-share", "nan"), "llm_share: nan is no share"),
        (("--labels", "joy,fear", "--llm-share", "0.1", "--mu", "1"), "give one of llm_share"),
        (("--labels", "joy,fear", "--levels", "encoder,logistic"), "weakest first"),
        (("--labels", "joy,fear", "--levels", "bert"), "levels: ['bert']: give some of logistic, encoder"),
    ],
)
def test_offline_refuses_what_the_api_would(run, tmp_path, more, message):
    path = write(tmp_path, [{"text": "x", "llm": 0}])
    result = run("stream", "replay", path, "--offline", "--expert", "llm", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("more", [(), ("--offline",), ("--offline", "--expert", "e")])
def test_what_replay_needs(run, tmp_path, more):
    result = run("stream", "replay", write(tmp_path, [{"text": "x"}]), *more)
    assert result.exit_code == 2
    assert "--stream NAME" in result.stderr or "--expert COLUMN" in result.stderr


def test_offline_learns_in_this_process(run, tmp_path):
    words = {0: "sun light warm", 1: "dark cold night"}
    rows = [{"text": f"{words[i % 2]} {i % 7}", "gold": i % 2, "llm": i % 2} for i in range(300)]
    options = ("--offline", "--labels", "joy,fear", "--levels", "logistic", "--llm-share", "0.4", "--json")
    result = run("stream", "replay", write(tmp_path, rows), "--label", "gold", "--expert", "llm", *options)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["queries"] == 300
    assert told["accuracy"] > 0.9
    assert told["share"]["llm"] <= 0.45
