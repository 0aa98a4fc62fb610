"""The API with streams over a fake core and pools with scripted answers, for tests of routes and commands."""

from pathlib import Path
from typing import Any

from serve_app.config.strategies import StreamsConfig
from serve_app.gateway.services import Services
from serve_app.streams.registry import LocalLearner, RegistryOptions
from serve_app.streams.service import Streams
from tests.api.fakes import FakePool, services
from tests.streams.fakes import FakeCore


class FakeExpert(FakePool):
    """Says the last word of what it is asked: a fake of an LLM, so that a test may choose its labels."""

    def _note(self, query: Any, call: Any) -> None:
        super()._note(query, call)
        self.words = (query.messages[-1].content.split()[-1],)


def stream_services(folder: Path, keys: dict[str, str] | None = None, most: int = 64, **keeping: Any) -> Services:
    """Services whose `large` pool is a FakeExpert. To be made where an event loop runs."""
    learner = LocalLearner(RegistryOptions(folder, most, **keeping), FakeCore())

    def change(parts: dict[str, Any]) -> None:
        options = StreamsConfig(poll_s=0.02, folder=str(folder))
        # a coin that falls to no audit: one query in fifty would be one
        streams = Streams(learner, parts["pools"], options, "g1", FakeCore(), coin=lambda: 0.5)
        parts["catalogue"].streams = streams
        parts["streams"] = streams
        parts["recorder"].watch_streams(streams)

    return services(large=FakeExpert("large", "lab-large"), keys=keys, change=change)
