"""`jethro config`: check a file, show what is in force, list the profiles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import SetOption, SmallOnlyOption, new_group, parse_settings
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.config import Config

group = new_group(help="Check a config, show what is in force, list profiles.")


@group.command()
def check(
    file: Annotated[str, typer.Argument(help="A YAML file (or a profile's name).")],
    set_: SetOption = None,
    small_only: SmallOnlyOption = False,
    live: Annotated[bool, typer.Option("--live", help="Also call the upstreams; costs a few tokens each.")] = False,
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Look at the file alone, not at this machine: for one served elsewhere.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="With --live: seconds that an answer may take.")] = 10.0,
    total: Annotated[float, typer.Option(min=0.1, help="With --live: seconds that all of it may take.")] = 30.0,
) -> None:
    """Check a config as `jethro serve` does before it starts: every mistake at once, with key, value and fix.

    Looked at are the file, what it refers to (environment variables, routers, chains, models, folders) and this machine
    (ports, packages, devices). With --live also the upstreams: model, one token, capabilities, key, clock.

    \b
    Examples:
      jethro config check my.yaml
      jethro config check my.yaml --live && jethro serve my.yaml
      jethro config check my.yaml --set server.port=9000
      jethro config check cluster.yaml --file-only
    """
    from serve_app.config import load, source_name

    config = load(file, settings=parse_settings(set_ or []), small_only=small_only)
    source, warnings = source_name(file), list[str]()
    if not file_only:
        from serve_app.deployments.checks import check_start

        report = check_start(config)
        report.require(source)
        warnings += report.warnings
    lines = _live(config, source, timeout, total) if live else []
    typer.echo(f"{file}: good")
    for name, pool in config.pools.items():
        typer.echo(f"  {name}: {pool.model} ({pool.engine.kind}, {pool.replicas.min} to {pool.replicas.max} replicas)")
    router = (config.routing.router or "that of the registry") if file_only else _router(config)
    typer.echo(f"  router: {router}; listens on {config.server.host}:{config.server.port}")
    for line in lines:
        typer.echo(f"  {line}")
    for line in warnings:
        typer.secho(f"warning: {line}", fg="yellow", err=True)


def _router(config: "Config") -> str:
    """The default router, as `jethro serve` would choose it now."""
    from serve_app.routing.default import default_source
    from serve_app.routing.registry import Registry

    registry = Registry(Path(config.routing.registry), config.routing.seed)
    return default_source(config.routing, registry, config.routed_models)


def _live(config: "Config", source: str, timeout: float, total: float) -> list[str]:
    """A line for each upstream. Raises ConfigError with all that keeps the config from being served."""
    import asyncio

    from serve_app.pools.inspection import check_upstreams

    reports = asyncio.run(check_upstreams(config.pools, call_s=timeout, total_s=total))
    refused = [f"{source}: {finding}" for report in reports for finding in report.findings if finding.refused]
    if refused:
        raise ConfigError("\n".join(refused))
    lines = [report.summary() for report in reports]
    notes = [f"note: {finding}" for report in reports for finding in report.findings]
    return [*lines, *notes] or ["no pool has an upstream: nothing was called"]


@group.command()
def show(
    source: Annotated[str | None, typer.Argument(help="A profile or a YAML file; without it `lab`.")] = None,
    set_: SetOption = None,
    small_only: SmallOnlyOption = False,
) -> None:
    """Print the config in force as YAML: the file, then JETHRO__... variables, then --set; defaults filled in.

    Secrets stay references: the names of environment variables, never their values.

    \b
    Examples:
      jethro config show                                  the default profile
      jethro config show gpu > my.yaml                    a file to start from
      JETHRO__SERVER__PORT=9000 jethro config show        with an override
    """
    import yaml

    from serve_app.config import load

    tree: dict[str, Any] = load(source, settings=parse_settings(set_ or []), small_only=small_only).model_dump(
        mode="json"
    )
    typer.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), nl=False)


@group.command()
def profiles() -> None:
    """List the profiles that ship with jethro.

    \b
    Examples:
      jethro config profiles
      jethro serve lab-vllm
    """
    from serve_app.config import load, profile_names

    for name in profile_names():
        try:
            pools, further = load(name, env={}).pools, ""
        except ConfigError:  # its large model is named by environment variables
            pools, further = load(name, env={}, small_only=True).pools, ", large: by environment variables"
        said = ", ".join(f"{k}: {p.model} ({p.engine.kind})" for k, p in pools.items())
        typer.echo(f"{name:<10} {said}{further}")
