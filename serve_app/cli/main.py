"""The `jethro` command and its groups. Heavy modules are imported when their command runs."""

from typing import Annotated

import typer

from serve_app.cli import chat, config, data, k8s, lab, scale, serve, stored
from serve_app.cli.adapter import commands as adapter
from serve_app.cli.cascade import commands as cascade
from serve_app.cli.dashboards import commands as dashboards
from serve_app.cli.decisions import commands as decisions
from serve_app.cli.decisions import replay
from serve_app.cli.ensemble import commands as ensemble
from serve_app.cli.options import new_group
from serve_app.cli.orchestrate import commands as orchestrate
from serve_app.cli.router import commands as router
from serve_app.cli.start import init, model, tune
from serve_app.cli.stream import commands as stream

app = new_group(
    name="jethro",
    add_completion=False,
    help="""One OpenAI-compatible endpoint; each query goes to the cheapest model that answers it well.

    \b
    Start here:
      jethro init                          a config for two models of your own
      jethro tune --prompts mine.jsonl     a router for them: whether it pays off, and how much
      jethro serve                         the endpoint with two small embedded models, on CPU
      jethro serve assistant --small-only  a small model of real English, downloaded once
      jethro chat "what is 40 + 2?"       ask it; shows which model answered and why
      jethro route "what is 40 + 2?"      only the decision, no answer
      jethro config profiles               configs that are ready to use
    """,
)
app.command("serve")(serve.serve)
app.command("serve-config")(serve.serve_config)
app.command("init")(init.init)
app.command("tune")(tune.tune)
app.command("chat")(chat.chat)
app.command("route")(chat.route)
app.command("replay")(replay.replay)
app.command("backup")(stored.backup)
app.command("restore")(stored.restore)
app.add_typer(config.group, name="config")
app.add_typer(lab.group, name="lab")
app.add_typer(model.group, name="model")
app.add_typer(data.group, name="data")
app.add_typer(router.group, name="router")
app.add_typer(stream.group, name="stream")
app.add_typer(cascade.group, name="cascade")
app.add_typer(ensemble.group, name="ensemble")
app.add_typer(orchestrate.group, name="orchestrate")
app.add_typer(adapter.group, name="adapter")
app.add_typer(decisions.group, name="decisions")
app.add_typer(dashboards.group, name="dashboards")
app.add_typer(scale.group, name="scale")
app.add_typer(k8s.group, name="k8s")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"jethro {version('jethro')}")
        raise typer.Exit


_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads sleep while they wait for each other. By default they spin, which on a machine that does much else
takes the cores from those that are waited for: vectors of 420 texts took 36 s so, and take 4 s."""


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    if ctx.invoked_subcommand != "serve":  # its processes choose for themselves: vLLM's own threads should spin
        from serve_app.config.environment import export

        export(_THREADS)


if __name__ == "__main__":
    app()
