"""`jethro config`: check a file, show what is in force, list the profiles."""

from typing import Annotated, Any

import typer

from serve_app.cli.options import SetOption, new_group, parse_settings

group = new_group(help="Check a config, show what is in force, list profiles.")


@group.command()
def check(file: Annotated[str, typer.Argument(help="A YAML file (or a profile's name).")]) -> None:
    """Check a config file; every mistake at once, with key, value and what to write instead.

    \b
    Examples:
      jethro config check my.yaml
      jethro config check my.yaml && jethro serve my.yaml
    """
    from serve_app.config import check_file

    config = check_file(file)
    typer.echo(f"{file}: good")
    for name, pool in config.pools.items():
        typer.echo(f"  {name}: {pool.model} ({pool.engine.kind}, {pool.replicas.min} to {pool.replicas.max} replicas)")
    router = config.routing.router or "the registry's default, else complexity"
    typer.echo(f"  router: {router}; listens on {config.server.host}:{config.server.port}")


@group.command()
def show(
    source: Annotated[str | None, typer.Argument(help="A profile or a YAML file; without it `lab`.")] = None,
    set_: SetOption = None,
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

    tree: dict[str, Any] = load(source, settings=parse_settings(set_ or [])).model_dump(mode="json")
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
        pools = load(name, env={}).pools
        typer.echo(f"{name:<10} " + ", ".join(f"{k}: {p.model} ({p.engine.kind})" for k, p in pools.items()))
