"""A worker ends with the process that started the engine, however that one ends."""

import signal
import subprocess
import sys

WORKER = """
import sys, time
from serve_app.engines.vllm.parent_watchdog import ParentWatchdog
ParentWatchdog().end_with_process(int(sys.argv[1]))
print("tied", flush=True)
time.sleep(600)
"""


def test_a_worker_dies_with_its_starter():
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(starter.pid)], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None and worker.stdout.readline() == "tied\n"
        assert worker.poll() is None
        starter.kill()
        assert worker.wait(timeout=60) == -signal.SIGKILL
    finally:
        for process in (starter, worker):
            process.kill()
            process.wait()
        worker.stdout.close()


def test_a_starter_that_is_gone_is_told():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run([sys.executable, "-c", WORKER, str(gone.pid)], capture_output=True, text=True, check=False)
    assert "ProcessLookupError" in done.stderr
