import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_app.front.sweep import sweep


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "jethro-test"
    made.mkdir()
    return made


def start(*command, **env) -> subprocess.Popen:
    return subprocess.Popen(command, env=os.environ | env)


def test_who_names_the_folder_ends_and_nobody_else(folder):
    by_line = start("sh", "-c", f"sleep 60; : {folder}")
    by_environment = start("sleep", "60", JETHRO_FRONT=str(folder))
    other = start("sleep", "60")
    try:
        sweep(folder)
        assert (by_line.wait(5), by_environment.wait(5)) == (-9, -9)
        assert other.poll() is None
        assert folder.exists()
    finally:
        other.kill()
        other.wait()


def test_who_writes_its_output_there_ends_too(folder):
    """As a worker of Ray, whose title takes the place of its command line and its environment."""
    with (folder / "worker.err").open("w") as output:
        worker = subprocess.Popen(["sleep", "60"], stderr=output)
    sweep(folder)
    assert worker.wait(5) == -9


def test_the_folder_goes_however_long_something_writes_to_it(folder):
    """A process that names it nowhere and is not a child, and that writes longer than a few tries take."""
    touch = "for i in range(20000): (p / str(i)).touch()"
    write = f"import os, pathlib; p = pathlib.Path(os.environ['A'], os.environ['B'])\n{touch}"
    writer = start(sys.executable, "-c", write, A=str(folder.parent), B=folder.name)
    while not any(folder.iterdir()):
        time.sleep(0.001)
    subprocess.run([sys.executable, "-P", "-m", "serve_app.front.sweep", str(folder)], check=True)
    assert not folder.exists()
    writer.wait(5)


def test_children_that_are_started_meanwhile_end_too(folder):
    """A process that starts another every few milliseconds, of another name."""
    parent = start("sh", "-c", "while :; do sleep 60 & sleep 0.002; done", JETHRO_FRONT=str(folder))
    sweep(folder)
    assert parent.wait(5) == -9
    marked = [p for p in Path("/proc").glob("[0-9]*/environ") if names(p, folder)]
    assert marked == []


def names(file: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in file.read_bytes()
    except OSError:
        return False


def test_a_child_that_does_not_name_the_folder_yet_ends_too(folder):
    """As one that the endpoint had just begun to start when it became this program."""
    child = ["sh", "-c", 'sleep 1; mkdir -p "$WHERE/jethro-$WHAT/late"']
    sweeping = [sys.executable, "-P", "-m", "serve_app.front.sweep", str(folder)]
    program = f"import os, subprocess; subprocess.Popen({child!r}); os.execv({sys.executable!r}, {sweeping!r})"
    env = os.environ | {"WHERE": str(folder.parent), "WHAT": "test"}
    assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == 0
    time.sleep(1.5)
    assert not folder.exists()


def test_as_a_program_it_removes_the_folder_too(folder):
    (folder / "ray").mkdir()
    (folder / "ray" / "a-file").write_text("x")
    process = start("sleep", "60", JETHRO_FRONT=str(folder))
    done = subprocess.run([sys.executable, "-P", "-m", "serve_app.front.sweep", str(folder)], check=False)
    assert done.returncode == 0
    assert process.wait(5) == -9
    assert not folder.exists()
