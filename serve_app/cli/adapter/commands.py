"""`jethro adapter`: the LoRA adapters that an endpoint serves; it may be running, and follows the changes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.adapter.train import train
from serve_app.cli.options import SetOption, new_group, parse_settings, say, show_json
from serve_app.errors import writing

if TYPE_CHECKING:
    from serve_app.adapters.registry import AdapterRegistry
    from serve_app.config import Config

group = new_group(help="Train, list, add, pin and remove LoRA adapters; a running endpoint follows within a second.")
group.command("train")(train)

ConfigOption = Annotated[str | None, typer.Option("--config", help="The config of the endpoint; without it `lab`.")]
NameArgument = Annotated[str, typer.Argument(help="The adapter's name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MIB = 1 << 20
_ELSEWHERE = "set adapters.registry to a folder that you can write"


@group.command("list")
def list_adapters(config: ConfigOption = None, set_: SetOption = None, json: JsonOption = False) -> None:
    """List the adapters with their base model, task, rank and size; those that cannot be used, with the reason.

    \b
    Examples:
      jethro adapter list
      jethro adapter list --config my.yaml --json
    """
    from serve_app.training.report import markdown_table

    _, registry = _opened(config, set_)
    cards = [card.to_json() for card in registry.all().values()]
    if json:
        show_json(cards)
    elif cards:
        head = ["adapter", "base", "task", "rank", "MiB", "licence", ""]
        typer.echo(markdown_table(head, [_row(card) for card in cards]))
    else:
        typer.echo("no adapters: add one with `jethro adapter add`")
    for why in registry.faults.values():
        say(f"not usable: {why}")


@group.command()
def show(name: NameArgument, config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show an adapter: base model and its hash, task, rank, size, licence, metrics.

    \b
    Examples:
      jethro adapter show sort
    """
    _, registry = _opened(config, set_)
    show_json(registry.get(name).to_json())


@group.command()
def add(
    source: Annotated[str, typer.Argument(help="A folder in PEFT's format, or a Hugging Face id.")],
    name: Annotated[str | None, typer.Option(help="The name that callers write after the model's.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="POOL", help="The pool whose model it belongs to; or a model's id or folder.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the Hugging Face repository: branch, tag or commit.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="If the name is taken, serve this one instead.")] = False,
    pinned: Annotated[bool, typer.Option("--pin", help="Every replica loads it at once and keeps it.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Check an adapter and add it to the registry; every replica of a running endpoint serves it from then on.

    One that Jethro trained knows its name and base model. Any other needs --name and --base, and is bound to the
    weights that this pool has now: after a change of the base model it is refused.

    \b
    Examples:
      jethro adapter add var/trained/sort
      jethro adapter add ~/my-lora --name tone --base small --config my.yaml
      jethro adapter add someone/some-lora --name tone --base small --licence apache-2.0
    """
    from serve_app.adapters import hub

    tree, registry = _opened(config, set_)
    if hub.is_hub_id(source):
        folder = hub.download(source, revision=revision, max_bytes=tree.adapters.max_mib * _MIB)
    else:
        folder = Path(source).expanduser()
    if base is not None and (pool := tree.pools.get(base)) is not None:
        base = getattr(pool.engine, "path", None) or base
    with writing(Path(tree.adapters.registry), _ELSEWHERE):
        card = registry.add(
            folder, name=name, base=base, replacing=replace, pinned=pinned, task=task, licence=licence, source=source
        )
    typer.echo(f"{card.name}: rank {card.files.rank}, {card.files.bytes / _MIB:.2f} MiB, for {card.about.base}")
    models = [pool.model for pool in tree.pools.values() if getattr(pool.engine, "path", None) == card.about.base]
    for model in models:
        typer.echo(f"request it as the model {model}:{card.name}")
    _warn_closed(tree, card.about.base)


@group.command()
def remove(name: NameArgument, config: ConfigOption = None, set_: SetOption = None) -> None:
    """Remove an adapter from the registry; requests that are open finish with it.

    \b
    Examples:
      jethro adapter remove tone
    """
    tree, registry = _opened(config, set_)
    with writing(Path(tree.adapters.registry), _ELSEWHERE):
        registry.remove(name)
    typer.echo(f"adapter {name} is removed")


@group.command()
def pin(
    name: NameArgument,
    off: Annotated[bool, typer.Option("--off", help="Pin it no longer.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Have every replica load an adapter at once and keep it in memory.

    \b
    Examples:
      jethro adapter pin sort
      jethro adapter pin sort --off
    """
    tree, registry = _opened(config, set_)
    with writing(Path(tree.adapters.registry), _ELSEWHERE):
        registry.pin(name, not off)
    typer.echo(f"adapter {name} is {'no longer ' if off else ''}pinned")


def _opened(config: str | None, settings: list[str] | None) -> "tuple[Config, AdapterRegistry]":
    from serve_app.adapters.registry import AdapterRegistry
    from serve_app.config import load

    tree = load(config, settings=parse_settings(settings or []))
    return tree, AdapterRegistry(tree.adapters)


def _warn_closed(tree: "Config", base: str) -> None:
    """Says which pools have the base and serve no adapters."""
    for name, pool in tree.pools.items():
        engine = pool.engine
        if getattr(engine, "path", None) == base and getattr(engine, "adapters", None) is None:
            say(f"pools.{name} runs {base} and serves no adapters: set pools.{name}.engine.adapters to {{}}")


def _row(card: dict[str, Any]) -> list[str]:
    marks = [mark for mark in ("shipped", "pinned") if card[mark]]
    size = f"{card['bytes'] / _MIB:.2f}"
    return [
        *(card["id"], card["base"], card["task"] or "", str(card["rank"]), size, card["licence"] or ""),
        ", ".join(marks),
    ]
