"""What commands share: options, `--set key=value` as dotted settings, and groups that print errors in one line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from serve_app.errors import ConfigError, JethroError

if TYPE_CHECKING:
    from serve_app.cli.endpoint import Endpoint

DEFAULT_URL = "http://127.0.0.1:8000"
REGISTRY = Path("var/routers")
"""Where routers are registered unless an option or the config says otherwise."""
UrlOption = Annotated[str, typer.Option("--url", envvar="JETHRO_URL", help="URL of the endpoint.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the config, e.g. routing.strong_share=0.3."),
]

SmallOnlyOption = Annotated[
    bool, typer.Option("--small-only", help="Leave out the pool large: every query goes to the small model.")
]


def listed(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list; empty ones are dropped."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def connected(url: str) -> "Iterator[Endpoint]":
    """A client of the endpoint with the key of JETHRO_API_KEY, closed afterwards."""
    from serve_app.cli.endpoint import Endpoint  # an HTTP client, which most commands do not need
    from serve_app.config import caller_key

    endpoint = Endpoint(url, caller_key())
    try:
        yield endpoint
    finally:
        endpoint.close()


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


def say(line: str) -> None:
    """A line on standard error."""
    typer.echo(line, err=True)


def show_json(value: object) -> None:
    """Indented JSON on standard output."""
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def write_report(folder: Path, name: str, body: Mapping[str, Any], markdown: str, plot: Callable[[Path], None]) -> None:
    """Write NAME.json, NAME.md and NAME.png into a folder."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    (folder / f"{name}.md").write_text(markdown, "utf-8")
    plot(folder / f"{name}.png")
    typer.echo(f"written: {folder / f'{name}.json'}, .md, .png")


EXIT_MISTAKE = 2
"""Exit code of an error that the message says how to fix; other failures keep Python's 1."""


class JethroGroup(TyperGroup):
    """Runs commands; a JethroError ends the program without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command. Raises typer.Exit with code 2 after printing a JethroError."""
        try:
            return super().invoke(ctx)
        except JethroError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(EXIT_MISTAKE) from error


def new_group(**options: Any) -> typer.Typer:
    """A group of commands with plain help text, the same on a terminal and in a pipe."""
    return typer.Typer(
        cls=JethroGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )
