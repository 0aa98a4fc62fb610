"""The command group that turns our errors into one red sentence and exit code 2."""

from typing import Any

import typer
from typer.core import TyperGroup

from serve_app.errors import JethroError

EXIT_MISTAKE = 2
"""Exit code of a mistake that the message says how to mend; other failures keep Python's 1."""


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
