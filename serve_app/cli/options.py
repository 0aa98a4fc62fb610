"""Options that several commands share, and `--set key=value` as the dotted settings that config takes."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from serve_app.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
UrlOption = Annotated[str, typer.Option("--url", envvar="JETHRO_URL", help="The endpoint to ask.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the config, e.g. routing.strong_share=0.3."),
]


def listed(text: str) -> tuple[str, ...]:
    """The names in a list with commas; empty ones count for nothing."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_settings(pairs: Sequence[str], shorthands: Mapping[str, object | None] | None = None) -> dict[str, str]:
    """Dotted keys to values. Shorthands that are not None win. Raises ConfigError for a pair without `=`."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair}: write key=value, for instance --set server.port=9000")
        settings[key.strip()] = value
    settings.update({key: str(value) for key, value in (shorthands or {}).items() if value is not None})
    return settings
