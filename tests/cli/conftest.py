"""Runs commands as the shell would, without the shell's environment."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from tests.cli.fake_endpoint import FakeEndpoint, running

Run = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once() -> Iterator[None]:
    """Typer builds the whole tree of commands at each call, which takes longer than most commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command))
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_clients(certificates_are_read_once: None) -> None:
    """Commands make a client each."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("JETHRO_API_KEY", "JETHRO_URL", "JETHRO_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, input: str | None = None, **env: str) -> Result:
        return CliRunner().invoke(app, list(arguments), input=input, env=env, catch_exceptions=False)

    return run


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with running(FakeEndpoint()) as endpoint:
        yield endpoint
