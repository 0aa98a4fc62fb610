"""`jethro config check --live` against two models over real HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.model_doubles import STRONG, WEAK, ModelDoubles, answering, config, write_config
from tests.integration.serving import free_port
from tests.pools.upstream_server import unused_url

Check = Callable[..., Result]


@pytest.fixture(scope="module")
def doubles() -> Iterator[ModelDoubles]:
    with answering(ModelDoubles()) as found:
        yield found


@pytest.fixture
def check(run: Any, doubles: ModelDoubles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """The command on a config of both, with keys of the config set."""
    monkeypatch.chdir(tmp_path)
    file = write_config(tmp_path / "my.yaml", config(doubles, tmp_path / "routers"))

    def check(*settings: str, **env: str) -> Result:
        given = [word for pair in (f"server.port={free_port()}", *settings) for word in ("--set", pair)]
        return run("config", "check", file, "--live", "--timeout", "5", *given, **env)

    return check


def test_upstreams_that_are_as_configured_are_told_one_by_one(check: Check) -> None:
    done = check("pools.small.engine.api_key_env=UPSTREAM_KEY", UPSTREAM_KEY="k-hush")
    assert done.exit_code == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    for pool, model in (("small", WEAK), ("large", STRONG)):
        (line,) = (line for line in lines if line.startswith(f"{pool}: http"))
        assert f"/v1 as {model}: one token in 0." in line
        assert line.endswith("; streaming, logprobs; clock agrees")
    assert "k-hush" not in done.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["pools.large.model=double-lagre"],
            ["my.yaml: pools.large.model: http", "no model 'double-lagre'", "double-large", "write one of its ids"],
        ),
        (
            ["pools.small.engine.upstream_model=nope"],
            ["pools.small.engine.upstream_model: http", "it lists double-small, double-large"],
        ),
        (["pools.small.engine.urls=[{down}]"], ["pools.small.engine.urls: {down}: the upstream cannot be reached"]),
    ],
)
def test_what_an_upstream_lacks_is_refused_with_pool_address_key_and_fix(
    check: Check, settings: list[str], said: list[str]
) -> None:
    down = unused_url()
    done = check(*(text.format(down=down) for text in settings))
    assert (done.exit_code, done.stdout) == (2, "")
    for part in said:
        assert part.format(down=down) in done.stderr


def test_an_upstream_without_log_probabilities_is_refused(check: Check, doubles: ModelDoubles) -> None:
    doubles.mute = True
    try:
        done = check("pools.small.engine.logprobs=true")
    finally:
        doubles.mute = False
    assert done.exit_code == 2
    assert "pools.small.engine.logprobs: http" in done.stderr and "set logprobs: false" in done.stderr


def test_without_an_upstream_nothing_is_called(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("config", "check", "lab", "--live", "--set", f"server.port={free_port()}")
    assert done.exit_code == 0 and "no pool has an upstream: nothing was called" in done.stdout
