"""`jethro adapter train`: fine-tunes a LoRA adapter of any causal language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import listed, say
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.tuning.rows import TuningRow

_DATA = "JSON lines, CSV or Parquet with prompt and completion, or messages. Repeat it for more files."
_ANSWERS = "Recorded answers of `jethro data collect`: the best answer to each query is learned."
_LOG = "With --answers: the decision log; only answers of pools that callers liked for the prompt are learned."
_TARGETS = "Comma-separated names of layers; default all linear projections of attention and MLP."
_BFLOAT16 = "On a CPU, matrix products in bfloat16: faster on some, slower on others."
_SKIP_LONG = "Leave out rows that are too long, instead of refusing."


def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    base: Annotated[str, typer.Option(help="Base model: a folder, lab:small, or pool:NAME of the config.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter; OUT.training keeps checkpoints until the end.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help=_DATA)] = None,
    answers: Annotated[Path | None, typer.Option(help=_ANSWERS)] = None,
    log: Annotated[Path | None, typer.Option(help=_LOG)] = None,
    min_score: Annotated[float, typer.Option(help="Least quality, or score in callers' feedback, of an answer.")] = 0.8,
    pools: Annotated[str | None, typer.Option(help="With --answers: comma-separated pools; default all.")] = None,
    task: Annotated[str | None, typer.Option(help="Task that it is for. Default: its name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the adapter, as SPDX names it.")] = "unknown",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the update of each matrix.")] = 16,
    alpha: Annotated[int | None, typer.Option(min=1, help="Scale of the update times rank. Default: 2 x rank.")] = None,
    targets: Annotated[str | None, typer.Option(help=_TARGETS)] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Peak; it rises, then falls to 0.")] = 5e-4,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of rows of a step.")] = 16,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better held-out loss before it stops.")] = 1,
    held_out: Annotated[int, typer.Option(min=2, help="One row in so many is held out.")] = 10,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a row; default the model's context.")] = None,
    skip_long: Annotated[bool, typer.Option("--skip-long", help=_SKIP_LONG)] = False,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help=_BFLOAT16)] = False,
    config: Annotated[str | None, typer.Option(help="For pool:NAME: profile or YAML file; default lab.")] = None,
    base_name: Annotated[str | None, typer.Option(help="Name of the base model. Default: its folder's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same adapter.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU if there is one.")] = None,
) -> None:
    """Fine-tune a LoRA adapter of a causal language model; after a kill the same command resumes to the step.

    Rows are JSON objects with prompt and completion, or messages whose last is the assistant's. The loss is on answers
    only, through the model's own chat template. One row in ten is held out, and training stops when the loss on these
    does not fall any more. The folder is in PEFT's format.

    \b
    Examples:
      jethro adapter train support --base my-model --data tickets.jsonl --out var/adapters/support
      jethro adapter train support --base pool:small --config my.yaml --data tickets.jsonl --out var/adapters/support
      jethro adapter train liked --base my-model --log var/jethro.sqlite3 --answers answers.parquet --out var/liked
    """
    from serve_app.tuning.bases import load_base
    from serve_app.tuning.lora import LoraShape
    from serve_app.tuning.rows import checked
    from serve_app.tuning.training import TuningRecipe, train_adapter

    if out.exists():
        raise ConfigError(f"{out}: exists already; give another --out, or move it away")
    shape = LoraShape(rank, alpha, tuple(listed(targets)) if targets else ())
    recipe = TuningRecipe(
        shape, epochs, learning_rate, batch, held_out, patience, max_tokens, skip_long, bfloat16, seed
    )
    rows, source = _rows(data or [], answers, log, min_score, listed(pools) if pools else ())
    model = load_base(*_base(base, base_name, config), device)
    found = train_adapter(model, checked(rows, source), recipe, (name, task or name, licence), out, say)
    m = found.metrics
    typer.echo(
        f"{out}: {found.base}, rank {rank}; held-out exact {100 * m['held_out_exact_before']:.1f} % without it, "
        f"{100 * m['held_out_exact']:.1f} % with it"
    )


def _rows(
    data: list[Path], answers: Path | None, log: Path | None, least: float, pools: Sequence[str]
) -> "tuple[list[TuningRow], str]":
    """The rows and what to call their source."""
    from serve_app.tuning.rows import best_answers, liked_answers, read_rows

    if bool(data) == (answers is not None):
        raise ConfigError("give one of --data FILE and --answers FILE: what to learn from")
    if answers is None:
        if log is not None:
            raise ConfigError("--log needs --answers: the decision log keeps prompts and feedback, but no answers")
        return read_rows(data), ", ".join(map(str, data))
    dataset = _dataset(answers)
    if log is None:
        return best_answers(dataset, least, pools), f"{answers}, answers of quality {least:g} or more"
    from serve_app.grading.feedback import read_feedback

    feedback = read_feedback(log)
    say(f"{log}: {feedback.summary()}")
    return liked_answers(feedback, dataset, least), f"{answers}, answers to prompts that {log} rates {least:g} or more"


def _dataset(path: Path) -> "Dataset":
    from serve_app.data.dataset import Dataset

    return Dataset.load(path)


def _base(base: str, name: str | None, config: str | None) -> tuple[str, str | None]:
    """Folder or lab name of the base model, and its name. Raises ConfigError for a pool that runs no model here."""
    pool = base.removeprefix("pool:")
    if pool == base:
        return base, name
    from serve_app.config import load

    settings = load(config).pools
    if pool not in settings:
        raise ConfigError(f"--base {base}: there is no such pool; the config has {', '.join(settings)}")
    path = getattr(settings[pool].engine, "path", None)
    if path is None:
        raise ConfigError(f"--base {base}: the pool calls a remote model; give the folder of a model")
    return str(path), name or (None if str(path).startswith("lab:") else settings[pool].model)
