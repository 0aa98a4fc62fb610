"""Runs commands as the shell would, without the shell's environment."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from tests.cli.fake_endpoint import FakeEndpoint, running
from tests.cli.journey import Journey, trained
from tests.cli.model_doubles import ModelDoubles, answering, config, prompts, write_config, write_prompts
from tests.store.test_sqlite import record

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
    for name in ("JETHRO_API_KEY", "JETHRO_ADMIN_KEY", "JETHRO_URL", "JETHRO_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, input: str | None = None, **env: str) -> Result:
        return CliRunner().invoke(app, list(arguments), input=input, env=env, catch_exceptions=False)

    return run


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    return [
        *("--set", f"store.path={tmp_path / 'x.sqlite3'}", "--set", f"streams.folder={tmp_path / 'streams'}"),
        *("--set", f"routing.registry={tmp_path / 'routers'}"),
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "x.sqlite3")
    with closing(Database(path)) as database:
        database.write(
            [record(f"{user}{i}", 1000.0 + i, user=user, tenant=tenant, prompt=f"{user} says {i} " * 50)
             for i in range(20) for user, tenant in (("alice", "acme"), ("bob", "rival"))]
        )  # fmt: skip
        database.add_feedback([(Feedback("alice3", 1.0), 5.0)])
    return path


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with running(FakeEndpoint()) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """Two models, a router trained on their answers that serves by default, and answers to fit and to measure on."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("JETHRO_API_KEY", "JETHRO_URL", "JETHRO_CONFIG"):
            patch.delenv(name, raising=False)
        found = Journey(tmp_path_factory.mktemp("journey"), stack.enter_context(answering(ModelDoubles())))
        write_config(found.folder / "my.yaml", config(found.doubles, found.folder / "routers"))
        write_prompts(found.folder / "learn-prompts.jsonl", prompts(400, seed=1))
        write_prompts(found.folder / "measure-prompts.jsonl", prompts(300, seed=2))
        trained(found, "mine", prompts(250, seed=3))
        found.done("router", "use", "mine", "--as-default", "--registry", found.at("routers"))
        for part in ("learn", "measure"):
            collected = found.collect(f"{part}.jsonl", f"{part}-prompts.jsonl")
            assert collected.exit_code == 0, collected.stderr
        yield found
