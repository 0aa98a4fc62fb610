import json
import logging
import os
import subprocess
import sys

from serve_app.errors import ConfigError, UpstreamError
from serve_app.observability import process_log
from serve_app.observability.process_log import JsonFormatter, RequestIdFilter, log_to_stderr
from serve_app.tracing.spans import in_force
from serve_app.types import DECISION_ID, REQUEST_ID
from serve_app.unrecorded import unrecorded
from tests.tracing.world import traced

AS_IN_A_REPLICA = """
import logging, sys, threading
class Dropped:
    def write(self, text): pass
    def flush(self): pass
sys.stderr = Dropped()  # as Ray Serve's logger at WARNING: it takes stderr's lines as INFO
import builtins
plain = builtins.print
builtins.print = lambda *objects, file=None, **options: plain(objects, file=file, **options)  # as Ray Serve's
from serve_app.observability.process_log import log_to_stderr
from serve_app.types import REQUEST_ID
if sys.argv[1] == "on":
    log_to_stderr("info", "g1")
    log_to_stderr("info", "g1")
REQUEST_ID.set("abc")
logging.getLogger("jethro.store").warning("a %s", "warning")
logging.getLogger("jethro.api").debug("below the level")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("jethro.api").exception("failed")
logging.getLogger("asyncio").error("Task exception was never retrieved")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
thread = threading.Thread(target=lambda: [][1], name="t1")
thread.start()
thread.join()
"""


def lines(how: str) -> list[dict]:
    done = subprocess.run([sys.executable, "-c", AS_IN_A_REPLICA, how], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_warnings_and_tracebacks_reach_stderr_though_sys_stderr_is_redirected():
    assert lines("off") == []
    warning, failed, foreign, thread = lines("on")
    known = {"event": "log", "replica": "g1", "request_id": "abc"}
    assert warning.items() >= (known | {"level": "warning", "logger": "jethro.store", "message": "a warning"}).items()
    assert failed.items() >= (known | {"level": "error", "message": "failed"}).items()
    assert failed["traceback"].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert foreign["logger"] == "asyncio"
    assert thread["message"] == "thread t1 failed" and "IndexError" in thread["traceback"]


def formatted(message: str, *args: object, **extra: object) -> dict:
    record = logging.LogRecord("jethro.x", logging.ERROR, "f", 1, message, args, None)
    vars(record).update(extra)
    assert RequestIdFilter().filter(record)
    line = JsonFormatter("r").format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_cannot_be_broken_and_is_bounded():
    assert formatted('x\n{"event": "forged"} \ud800')["message"] == 'x\n{"event": "forged"} \\ud800'
    assert len(formatted("%s", "y" * 10**6)["message"]) < 21_000
    assert "request_id" not in formatted("no request")


def test_a_record_with_an_id_of_its_own_keeps_it():
    given = REQUEST_ID.set("the task's")
    try:
        assert formatted("x")["request_id"] == "the task's"
        assert formatted("x", request_id="its own")["request_id"] == "its own"
    finally:
        REQUEST_ID.reset(given)


def test_a_line_of_a_request_names_its_decision_and_its_trace():
    tracing, _ = traced("g", 1.0)
    span = tracing.request("POST /x", [])
    given, decided = REQUEST_ID.set("r1"), DECISION_ID.set("d1")
    try:
        with in_force(span):
            line = formatted("x")
        assert (line["request_id"], line["decision_id"], line["trace_id"]) == ("r1", "d1", span.trace_id)
        unsampled, _ = traced("g", 0.0)
        with in_force(unsampled.request("POST /x", [])):
            assert "trace_id" not in formatted("x")
    finally:
        REQUEST_ID.reset(given)
        DECISION_ID.reset(decided)


def failed(error: Exception, content: bool, name: str = "jethro.x") -> dict:
    """The line of an error that is also a value of the message."""
    try:
        raise error
    except Exception as raised:
        known = (type(raised), raised, raised.__traceback__)
        record = logging.LogRecord(
            name, logging.ERROR, "f", 1, "it failed: %s, %r, %s", (raised, raised, "kept"), known
        )
    return json.loads(JsonFormatter("r", content=content).format(record))


def test_an_error_quotes_nothing_once_there_was_a_request(monkeypatch):
    monkeypatch.setattr(process_log, "any_ever", lambda: False)  # another test may have had a request of class local
    with unrecorded(False):
        pass
    for error in (ValueError("canary"), UpstreamError("the upstream said canary"), KeyError("canary")):
        line, name = failed(error, False), type(error).__name__
        assert line["message"] == f"it failed: {name}, {name}, kept"
        assert line["traceback"].splitlines()[-1] == f"{name}: (not logged)" and "canary" not in str(line)
        assert "in failed" in line["traceback"]
        assert "canary" in failed(error, True)["message"] and "canary" in failed(error, True)["traceback"]
    assert "canary" not in str(failed(ValueError("canary"), False, "asyncio"))
    assert "canary" in str(failed(ValueError("canary"), True, "asyncio")["traceback"])


def test_an_error_of_the_machine_or_the_config_says_what_it_is():
    with unrecorded(False):
        pass
    for error in (OSError(28, "No space left on device"), ConfigError("write a number"), MemoryError("2 GiB")):
        line = failed(error, False)
        assert str(error) in line["message"] and str(error) in line["traceback"]
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
    assert "tried 2 GiB" in failed(out_of_memory("tried 2 GiB"), False)["traceback"]


def test_setting_up_twice_logs_once_and_leaves_other_handlers(loggers):
    other = logging.NullHandler()
    loggers[0].addHandler(other)
    for level in ("debug", "error"):
        log_to_stderr(level)
    assert [len(logger.handlers) for logger in loggers] == [2, 1, 1] and other in loggers[0].handlers
    assert loggers[0].level == logging.ERROR


def test_lines_of_many_threads_do_not_mix():
    read, write = os.pipe()
    code = (
        "import threading\n"
        "from serve_app.observability.process_log import StderrLines\n"
        "outs = [StderrLines() for _ in range(4)]\n"
        "run = lambda out, c: [out.write((c * 9000 + chr(10)) * 3) for _ in range(20)]\n"
        "threads = [threading.Thread(target=run, args=(out, c)) for out, c in zip(outs, 'abcd')]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=write) as process:
        os.close(write)
        with open(read) as out:
            found = out.read().splitlines()
        assert process.wait(60) == 0
    assert len(found) == 240 and {len(line) for line in found} == {9000}
    assert all(len(set(line)) == 1 for line in found)
