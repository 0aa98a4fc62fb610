"""The order of a start and its failures, without Ray: in a process of its own, whose environment a start changes."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.integration.serving import free_port

PROGRAM = """
import json, sys
from serve_app.config import load
from serve_app.deployments import run
from serve_app.errors import ConfigError, JethroError

failures = [eval(text) for text in json.loads(sys.argv[1])]
launched = []

def launch(config, engine_factory):
    launched.append(run._home[-1].path.exists())
    if failures:
        raise failures.pop(0)

run._launch, run._forget_ray = launch, lambda home: launched.append("forgotten")
found = {"raised": None}
try:
    run.start(load("lab", settings={"server.port": sys.argv[2]}, env={}), engine_factory="any:engine")
except JethroError as error:
    found["raised"] = [type(error).__name__, str(error)]
found["launched"] = launched
found["folder"] = str(run._home[-1].path)
run._home[-1].remove()
found["left"] = run._home[-1].path.exists()
print(json.dumps(found))
"""


@pytest.fixture
def started(tmp_path):
    def started(*failures: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(failures), str(free_port())],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        return json.loads(done.stdout)

    return started


def test_a_start_that_succeeds_is_one(started):
    found = started()
    assert (found["raised"], found["launched"], found["left"]) == (None, [True], False)


def test_ray_that_fails_is_started_once_more(started):
    found = started("TimeoutError('HTTP proxies not available after 60s.')")
    assert (found["raised"], found["launched"]) == (None, [True, "forgotten", True])


def test_a_second_failure_is_one_sentence_with_the_logs(started):
    found = started("RuntimeError('first')", "Exception('The node timed out.\\nand forty lines more')")
    kind, sentence = found["raised"]
    assert kind == "Ended"
    assert sentence == (
        f"Ray did not start in two attempts (The node timed out.); its logs are in "
        f"{found['folder']}/ray/session_latest/logs"
    )


def test_a_wrong_config_is_not_tried_again(started):
    found = started("ConfigError('it requires 4 CPUs')")
    assert (found["raised"], found["launched"]) == (["ConfigError", "it requires 4 CPUs"], [True])
