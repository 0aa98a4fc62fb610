"""Signals of a process that serves, in a process of its own: what Ray's core does to handlers must not matter."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, subprocess, sys, threading
from serve_app.deployments import signals

def say(what):
    os.write(1, f"{what}\\n".encode())  # at once: two threads may say something

done = threading.Event()

def again():
    say("again")
    done.set()

with signals.held():
    say("held")
    sys.stdin.readline()
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # as of a library: it inherits what is blocked
    signals.take(lambda: say("first"), again)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # as Ray's core does
    child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: None)  # as Ray starts its own
    child.send_signal(signal.SIGTERM)
    say(f"child {child.wait(10)}")
    say("taken")
    done.wait(10)
    signals.ignore()
say("over")
sys.stdin.readline()
"""


class Process:
    """The program above; `says` is its next line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def enter(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("early", [True, False])
def test_signals_are_taken_in_order_whatever_their_handlers_are(number, early):
    program = Process()
    with program.process as process:
        try:
            assert program.says() == "held"
            if early:
                process.send_signal(number)
            program.enter()
            expected = {f"child {-signal.SIGTERM}", "taken"} | ({"first"} if early else set())
            assert {program.says() for _ in expected} == expected
            if not early:
                process.send_signal(number)
                assert program.says() == "first"
            process.send_signal(number)
            assert (program.says(), program.says()) == ("again", "over")
            process.send_signal(number)  # ignored from here on
            program.enter()
            assert process.wait(10) == 0
        finally:
            process.kill()
