"""The page of the clients: what each was tested with, call by call."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.clients.catalog import Client

CALLS = {
    "models": "model list",
    "chat": "chat",
    "stream": "streamed",
    "tools": "tools, five turns",
    "structured": "structured output",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "Responses",
    "messages": "Messages",
    "load": "load or evaluation",
    "replay": "replayed",
}
"""The columns: a test belongs to the one by which its name begins."""


@dataclass(frozen=True)
class Outcome:
    """The result of one test: `state` is passed, failed or skipped."""

    test: str
    state: str
    why: str = ""

    @property
    def call(self) -> str:
        """Its column; what has none is of no call alone."""
        first = re.split(r"[_\[]", self.test)[0].split(" ")[0]
        return first if first in CALLS else ""


@dataclass(frozen=True)
class Result:
    """The results of a client; `skipped` says why it did not run at all."""

    client: Client
    outcomes: Sequence[Outcome]
    skipped: str | None = None

    @property
    def failed(self) -> bool:
        """Whether anything failed, or nothing was run."""
        return self.skipped is None and (not self.outcomes or any(each.state == "failed" for each in self.outcomes))

    def cell(self, call: str) -> str:
        """How many tests of a call passed, or what became of them."""
        states = [each.state for each in self.outcomes if each.call == call]
        if "failed" in states:
            return f"{states.count('failed')} failed"
        if states and "passed" not in states:
            return "skipped"
        return f"{len(states)} passed" if states else ""


HEAD = """# Clients

Only the address and the key change: each client below is installed as it is published, into an environment of its own,
and runs what its documentation shows first, without a setting of ours. `make clients` runs them and writes this page;
`make clients QUICK=1` runs the light ones and leaves the page as it is.

The endpoint serves the embedded models (`jethro`, `jlab-large`), the sentence encoder (`embed`) and an upstream on the
same machine that behaves as OpenAI's API (`double`): it calls the tools that it is given in five turns, answers by JSON
schema, refuses, thinks, and refuses in turn every message and field that OpenAI's API would refuse. A cell counts the
tests of a call. *Replayed*: every conversation that the client sent with an answer in it was recorded and sent once
more, and no field of it was refused.
"""


def page(results: Sequence[Result]) -> str:
    """The whole page."""
    calls = [call for call in CALLS if any(result.cell(call) for result in results)]
    lines = [HEAD, "| client | version | " + " | ".join(CALLS[call] for call in calls) + " |"]
    lines.append("| --- | --- | " + " | ".join("---" for _ in calls) + " |")
    for result in results:
        cells = [result.cell(call) for call in calls]
        if result.skipped is not None:
            cells = [f"skipped: {result.skipped}", *("" for _ in calls[1:])]
        lines.append(f"| {result.client.name} | {result.client.versions} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
