"""Where the endpoint is, and what the tests of all clients share. They know its URL, a key and its models' names alone.

Without a URL nothing here is collected: these tests run in environments of their own.
"""

import os
from dataclasses import dataclass, field

import pytest

collect_ignore_glob = [] if "JETHRO_CLIENTS_URL" in os.environ else ["*"]
TURNS = 5


@dataclass
class Weather:
    """A tool: a day's weather in a city. The model `double` calls it five times, then repeats the last result."""

    ASK = "How is the weather in the next days?"
    calls: list[tuple[str, int]] = field(default_factory=list)

    def forecast(self, city: str, day: int) -> str:
        """The weather in a city on a day.

        Args:
            city: The city's name.
            day: Days from now.
        """
        self.calls.append((city, day))
        return f"{len(self.calls) + 16} degrees in {city} on day {day}"

    def check(self, text: str) -> None:
        """Five calls were made, each with arguments of its own, and the answer is of the last result."""
        assert len(self.calls) == len(set(self.calls)) == TURNS, self.calls
        city, day = self.calls[-1]
        assert text == f"After {TURNS} turns: {TURNS + 16} degrees in {city} on day {day}"


@pytest.fixture
def weather() -> Weather:
    return Weather()


@pytest.fixture(scope="session")
def url() -> str:
    """The endpoint's base URL, with /v1."""
    return os.environ["JETHRO_CLIENTS_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    """A key that the endpoint accepts."""
    return os.environ["JETHRO_CLIENTS_KEY"]


@pytest.fixture(params=["jethro", "jlab-large", "double"])
def model(request: pytest.FixtureRequest) -> str:
    """A decision over the embedded models, one of them, and an upstream."""
    name: str = request.param
    return name


@pytest.fixture
def ask() -> str:
    """What the embedded models can answer: 42."""
    return "what is 40 + 2?"
