"""`jethro orchestrate`: a classifier of tasks, fitted on examples, and the task of a text."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import new_group, say
from serve_app.numbers import fixed


def fit(
    examples: Annotated[Path, typer.Argument(help='JSONL of {"text": ..., "task": NAME or null}.')],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; name it in orchestration.classifier.")],
    seed: Annotated[int, typer.Option(help="Draws the folds.")] = 0,
) -> None:
    """Fit a classifier that names the task of a query where no pattern of the task table does.

    Examples of task null are of no task: without them every query would be of some. Needs the extra `train`.

    \b
    Example:
      jethro orchestrate fit examples.jsonl --out var/tasks
    """
    from serve_app.orchestration.classifier import fit_tasks, read_examples

    rows = read_examples(examples)
    say(f"fitting on {len(rows)} examples ...")
    fitted = fit_tasks(rows, seed)
    fitted.save(out)
    typer.echo(f"{out}: {fitted.version}, tasks {', '.join(fitted.tasks)}")
    typer.echo(f"right out of fold: {fixed(100 * fitted.metrics['accuracy'], 1)} % of {len(rows)} examples")


def classify(
    folder: Annotated[Path, typer.Argument(help="Folder of a fitted classifier.")],
    text: Annotated[str, typer.Argument(help="The text of a query.")],
) -> None:
    """Print the probability of each task for a text, the likeliest first.

    \b
    Example:
      jethro orchestrate classify var/tasks "sort 52 17 88"
    """
    from serve_app.orchestration.classifier import HashedTasks

    found = HashedTasks.load(folder).probabilities(text)
    for name in sorted(found, key=found.__getitem__, reverse=True):
        typer.echo(f"{fixed(found[name], 3)}  {name}")


group = new_group(help="Fit and try the classifier of orchestration's tasks.")
group.command("fit")(fit)
group.command("classify")(classify)
