"""`jethro serve`."""

from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import SetOption, parse_settings

if TYPE_CHECKING:
    from serve_app.config import Config


def serve(
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A profile or a YAML file; without it `lab`.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond localhost keys are required.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    set_: SetOption = None,
) -> None:
    """Start the endpoint and serve until Ctrl-C.

    \b
    Examples:
      jethro serve                                  embedded models on CPU, http://127.0.0.1:8000
      jethro serve my.yaml --port 9000              your own config
      jethro serve --set routing.strong_share=0.3   three in ten queries to the large model
      JETHRO__SERVER__PORT=9000 jethro serve        the same keys from the environment
    """
    from serve_app.deployments.signals import held

    with held():  # before any library starts threads
        from serve_app.config import load

        config = load(source, settings=parse_settings(set_ or [], {"server.host": host, "server.port": port}))
        from serve_app.deployments.run import run  # Ray: only now that the config is known to be good

        typer.echo(f"starting {source or 'lab'}: {_pools(config)} ...", err=True)
        run(config, ready=lambda: _say_ready(config))


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


def _say_ready(config: "Config") -> None:
    everywhere = config.server.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if everywhere else config.server.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
    typer.secho(f"jethro is ready: {url}/v1", fg="green", err=True)
    if everywhere:
        keys = ", ".join(f"${key.env}" for key in config.server.keys)
        which = f"with a key ({keys}) as bearer token" if keys else "without a key (server.allow_unauthenticated)"
        typer.echo(f"  other machines: by any address of this one, port {config.server.port}, {which}", err=True)
    typer.echo(
        f'  try: jethro chat --url {url} "what is 12 + 30?"   (API page: {url}/docs; stop with Ctrl-C)', err=True
    )
