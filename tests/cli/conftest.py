"""Runs commands as the shell would, without the shell's environment."""

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from tests.cli.fake_endpoint import FakeEndpoint, running

Run = Callable[..., Result]


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
