"""What the commands of `jethro router` share: options, parameters, and lines about a registered version."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import parse_settings
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.routing.registry import Registry


def note_other_models(models: tuple[str, str] | None, dataset: "Dataset") -> None:
    """Say so where a router was trained on the answers of other models than the dataset's."""
    found = (dataset.weak.model, dataset.strong.model)
    if models is not None and models != found:
        typer.echo(f"note: trained on answers of {' and '.join(models)}; these are of {' and '.join(found)}")


def say_registered(registry: "Registry", name: str, version: str, queries: str) -> None:
    """Where the version is, its figures on `queries`, and what to do next."""
    from serve_app.cli.start.next_step import after_registering
    from serve_app.numbers import fixed, percent, significant
    from serve_app.routing.artefact import read_card

    folder = registry.path(name, version)
    card = read_card(folder)
    figures = card["metrics"]
    apgr = f", APGR {fixed(figures['apgr'], 3)}" if "apgr" in figures else ""
    typer.echo(f"{folder}: threshold {significant(card['threshold'], 6)} ({card['target']}){apgr}")
    typer.echo(
        f"on {figures['queries']:,.0f} {queries}: {percent(figures['strong_share'])} strong calls, quality "
        f"{fixed(figures['quality'], 4)}, drop {percent(figures['quality_drop'], 2)}"
    )
    after_registering(registry, name, version)


ELSEWHERE = "give another with --registry"
"""What to do about a registry that cannot be written."""
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of the registered routers.")]
DataOption = Annotated[Path, typer.Option("--data", help="Parquet file of `jethro data`: both pools' scored answers.")]
WeakOption = Annotated[str, typer.Option("--weak", help="The data set's weak pool.")]
StrongOption = Annotated[str, typer.Option("--strong", help="The data set's strong pool.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-seen", help="Leave out queries that the router learned from, instead of refusing.")
]
ParamOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the router; repeat it for more.")
]


def params(pairs: list[str]) -> dict[str, Any]:
    """--set values as YAML scalars: 40 is a number, true a boolean, null none. Raises ConfigError without `=`."""
    import yaml

    return {key: yaml.safe_load(value) for key, value in parse_settings(pairs).items()}


def params_by_kind(pairs: list[str], kinds: list[str]) -> dict[str, dict[str, Any]]:
    """--set KIND.KEY=VALUE by kind. Raises ConfigError for a pair that names none of the kinds."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in params(pairs).items():
        kind, dot, key = name.partition(".")
        if not dot or kind not in kinds:
            raise ConfigError(f"--set {name}: write KIND.KEY=VALUE with one of {', '.join(kinds)}")
        found.setdefault(kind, {})[key] = value
    return found
