"""SIGTERM and SIGINT to `jethro serve`: open streams finish, a start ends, and nothing is left over."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.process import ROOT
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.remote import upstream, url_of
from benchmarks.trust.stop import (
    CALLERS,
    PIECES,
    Stopped,
    endpoint,
    look,
    temporary_folder,
    while_starting,
    with_streams,
)

pytestmark = pytest.mark.integration


@dataclass
class Place:
    """An upstream, and a temporary folder that must be empty at the end."""

    url: str
    folder: Path

    def serve(self, drain_s: float) -> Endpoint:
        return endpoint(self.url, self.folder, ROOT, drain_s)

    def stop(
        self, number: signal.Signals, *, drain_s: float = 20.0, pieces: int = PIECES, again: bool = False
    ) -> Stopped:
        with self.serve(drain_s) as served:
            found = asyncio.run(with_streams(served, "", number, pieces=pieces, again=again))
            look(found, served, self.folder)
        return found


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with upstream("stop_upstream") as server, temporary_folder() as folder:
        yield Place(url_of(server), folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_streams_are_finished_and_nothing_new_is_accepted(place: Place, number: signal.Signals) -> None:
    found = place.stop(number)
    assert found.clean(), found
    assert (found.finished, found.accepted) == (CALLERS, 0)
    assert found.seconds < 20


def test_a_second_signal_ends_at_once(place: Place) -> None:
    found = place.stop(signal.SIGTERM, again=True)
    assert found.clean(), found
    assert found.seconds < 3
    assert found.finished == 0


def test_what_is_open_after_the_drain_ends_with_an_error_event(place: Place) -> None:
    found = place.stop(signal.SIGINT, drain_s=2.0, pieces=4 * PIECES)
    assert found.clean(), found
    assert (found.finished, found.error_events, found.cut) == (0, CALLERS, 0)
    assert found.seconds < 4 * 8


@pytest.mark.parametrize("after_s", [0.0, 1.0, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_leaves_nothing(place: Place, after_s: float, number: signal.Signals) -> None:
    found = while_starting(place.serve(20.0), place.folder, after_s, number)
    assert found.clean(), found
    assert found.seconds < 10
