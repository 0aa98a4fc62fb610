"""Runs other clients' tests against one endpoint, for `make clients`, and writes docs/clients.md.

A folder here is an environment: `requirements.txt` (Python, exact versions, which need not agree with the product's) or
`package.json` and its lock file (Node), installed by `make` into `.venv/clients/FOLDER`; a folder with neither runs in
`.venv` itself. A file of tests is a client, see `catalog.py`. Its tests know nothing but the endpoint's URL and key.
What the client sent with an answer of ours in it is sent once more at the end, and must be accepted.

python -m tests.clients.run [--quick] [--page FILE] [NAME...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tests.clients.catalog import CLIENTS, HERE, TOKENIZER, Client
from tests.clients.endpoint import KEY, KEY_ENV, Recorder, endpoint, replayed, with_history
from tests.clients.page import Outcome, Result, page

ENVIRONMENTS = HERE.parents[1] / ".venv" / "clients"
LIMIT_S = 600
REPLAY = "replay"


def command(client: Client, report: Path) -> list[str]:
    """How the tests of a client are run, with a report in JUnit's form."""
    file = str(HERE / client.folder / client.file)
    if client.node:
        # modules are looked up from where the file lies
        shutil.copytree(HERE / client.folder, ENVIRONMENTS / client.folder, dirs_exist_ok=True)
        file = str(ENVIRONMENTS / client.folder / client.file)
        reports = ["--test-reporter=spec", "--test-reporter-destination=stdout"]
        return ["node", "--test", *reports, "--test-reporter=junit", f"--test-reporter-destination={report}", file]
    own = HERE / client.folder / "requirements.txt"
    python = ENVIRONMENTS / client.folder / "bin" / "python" if own.exists() else Path(sys.executable)
    options = ["-c", str(HERE / "pytest.ini"), "--confcutdir", str(HERE), "-q", f"--junitxml={report}"]
    return [str(python), "-m", "pytest", *options, file]


def outcomes(report: Path) -> list[Outcome]:
    """The results in a report in JUnit's form."""
    made = []
    for case in ET.parse(report).iter("testcase"):  # written by the run itself
        kinds = {child.tag: child for child in case}
        skipped = kinds.get("skipped")
        state = "failed" if {"failure", "error"} & kinds.keys() else "passed" if skipped is None else "skipped"
        why = "" if skipped is None else skipped.get("message", "")
        made.append(Outcome(case.get("name", "").removeprefix("test_"), state, why))
    return made


def tested(client: Client, url: str, recorder: Recorder, folder: Path) -> Result:
    """The results of a client's tests, and of what it sent when that is sent again. None collected is a failure."""
    if (why := client.missing(ENVIRONMENTS)) is not None:
        print(f"== {client.name}: skipped: {why}")
        return Result(client, [], why)
    report = folder / f"{client.folder}-{client.file}.xml"
    variables = {each: value for each, value in os.environ.items() if not each.startswith(("PYTHON", "OPENAI_"))}
    recorder.sent.clear()
    start_s = time.monotonic()
    print(f"== {client.name}", flush=True)
    done = subprocess.run(
        command(client, report),
        cwd=folder,
        env=variables | {"JETHRO_CLIENTS_URL": f"{url}/v1", KEY_ENV: KEY, "JETHRO_CLIENTS_TOKENIZER": str(TOKENIZER)},
        timeout=LIMIT_S,
        check=False,
    )
    made = outcomes(report) if report.exists() else []
    if done.returncode != 0 and not any(each.state == "failed" for each in made):
        made.append(Outcome("run", "failed", f"exit status {done.returncode}"))
    made += again(recorder, url)
    print(f"== {client.name}: {time.monotonic() - start_s:.0f} s", flush=True)
    return Result(client, made)


def again(recorder: Recorder, url: str) -> list[Outcome]:
    """What a client sent, with an answer in it, is sent again: whether it is answered."""
    sent = [each for each in recorder.sent if each.status == 200 and with_history(each)]
    refused = [why for each in dict.fromkeys(sent) if (why := replayed(each, url)) is not None]
    for why in refused[:3]:
        print(f"replay: {why}")
    if not sent:
        return []
    return [Outcome(REPLAY, "failed" if refused else "passed", "")]


def main(arguments: Sequence[str]) -> int:
    """Test all, write the page, report which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="the light clients only")
    parser.add_argument("--page", type=Path, help="where to write the table")
    parser.add_argument("names", nargs="*", help="clients or folders, default: all")
    options = parser.parse_args(arguments)
    chosen = [
        client
        for client in CLIENTS
        if (client.quick or not options.quick)
        and (not options.names or {client.name, client.folder, client.file} & set(options.names))
    ]
    os.environ[KEY_ENV] = KEY
    with tempfile.TemporaryDirectory() as folder, endpoint(Path(folder)) as (url, recorder):
        results = [tested(client, url, recorder, Path(folder)) for client in chosen]
    if options.page is not None:
        options.page.write_text(page(results), "utf-8")
    states = [each.state for result in results for each in result.outcomes]
    bad = [result.client.name for result in results if result.failed]
    print(f"failed: {', '.join(bad)}" if bad else "no client failed")
    skipped = states.count("skipped") + sum(1 for result in results if result.skipped)
    # the line that continuous integration counts tests by
    print(f"{states.count('passed')} passed, {states.count('failed')} failed, {skipped} skipped")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
