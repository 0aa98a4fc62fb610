"""Watches a start until a query would be answered, as the endpoint itself says at /health/ready.

That its processes run is not enough: an upstream may be down. What is said of it goes to the operator's console.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final, Protocol

from serve_app.config import Config
from serve_app.gateway.services import Readiness

_SETTLE_S: Final = 5.0
"""From the first look until a pool that is not known to answer counts as down: upstreams are probed every second."""
_PROBE_S: Final = 5.0


class Console(Protocol):
    """Where an operator reads how a start goes."""

    def warn(self, line: str) -> None:
        """Something that does not stop the start."""

    def waiting(self, state: Readiness) -> None:
        """The endpoint runs, and no query can be answered yet: see `why` of its pools."""

    def ready(self, state: Readiness) -> None:
        """Queries are answered, if `degraded` by fewer pools than there should be."""


class NoConsole:
    """A Console that shows nothing."""

    def warn(self, line: str) -> None:
        """Nothing."""

    def waiting(self, state: Readiness) -> None:
        """Nothing."""

    def ready(self, state: Readiness) -> None:
        """Nothing."""


class ReadyWatch:
    """Says `ready` to the console once, and before that what queries wait for, each state once."""

    def __init__(
        self,
        console: Console,
        look: Callable[[], Readiness | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` returns what the endpoint says, None while it does not answer."""
        self._console, self._look, self._clock = console, look, clock
        self._settled_s: float | None = None
        self._said: dict[str, Any] | None = None
        self.done = False

    def step(self) -> None:
        """Look once, and say what there is to say."""
        state = None if self.done else self._look()
        if state is None:
            return
        if self._settled_s is None:
            self._settled_s = self._clock() + _SETTLE_S
        settled = self._clock() >= self._settled_s
        if state.ok and (settled or not state.degraded):
            self.done = True
            self._console.ready(state)
            return
        faults = {name: pool.get("why") for name, pool in state.pools.items()}
        if settled and not state.ok and faults != self._said:
            self._said = faults
            self._console.waiting(state)


def address(config: Config) -> str:
    """The URL at which this machine reaches the endpoint."""
    everywhere = config.server.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if everywhere else config.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"


def readiness_at(url: str) -> Readiness | None:
    """What the endpoint at the URL says; None where it does not answer, or HAProxy does so in its place."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment names
    try:
        try:
            with opener.open(f"{url}/health/ready", timeout=_PROBE_S) as reply:
                return Readiness(**json.load(reply))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Readiness(**json.load(refusal))
    except (OSError, ValueError, TypeError):
        return None
