"""Options that the commands of `jethro router` share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from serve_app.cli.options import parse_settings
from serve_app.errors import ConfigError

REGISTRY = Path("var/routers")
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of the registered routers.")]
DataOption = Annotated[Path, typer.Option("--data", help="Parquet file of `jethro data`: both pools' scored answers.")]
WeakOption = Annotated[str, typer.Option("--weak", help="The dataset's pool that is cheap.")]
StrongOption = Annotated[str, typer.Option("--strong", help="The dataset's pool that is good.")]
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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises ConfigError instead of OSError where a folder cannot be written."""
    try:
        yield
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e}); give another with --registry") from e
