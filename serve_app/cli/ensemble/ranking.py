"""`jethro ensemble rank` and `train-ranker`: which of several candidates is best, and a model that knows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.options import listed, say
from serve_app.errors import ConfigError, DataError, writing

if TYPE_CHECKING:
    from serve_app.data.mixinstruct import ScoredCandidates
    from serve_app.data.records import Record
    from serve_app.ensemble.ranking.network import NetworkShape
    from serve_app.ensemble.ranking.training import RankingRecipe

_METRICS = "Comma-separated scores to learn from, one output of the network each. Default: all there are, or quality."
_JOINT = "Only so many upper layers read pairs; the lower ones read each candidate once. BERT encoders; much faster."
_WEIGHTING = "gap: pairs count by the difference of their scores."


def rank(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines with source (or prompt) and candidates.")],
    ranker: Annotated[Path, typer.Option(help="Folder of a trained ranker.")],
    out: Annotated[Path, typer.Option(help="JSON lines: each row with scores, ranks, best and ranker.")],
    policy: Annotated[Literal["max_logits", "max_wins"], typer.Option(help="From pairs to scores.")] = "max_logits",
    batch: Annotated[int, typer.Option(min=1, help="Rows that share forward passes.")] = 16,
) -> None:
    """Rank the candidates of every row; after a kill the same command resumes.

    A row is one query: source, prompt, messages, or instruction and input; and candidates, texts or objects with text,
    of any number. scores and ranks are in their order, 1 is the best rank; best is the position of the best. Where
    every candidate names its model, and the ranker knows these models, scores by max_logits count that too.

    \b
    Examples:
      jethro ensemble rank candidates.jsonl --ranker var/rankers/mine --out ranked.jsonl
      jethro ensemble rank candidates.jsonl --ranker var/rankers/mine --policy max_wins --out ranked.jsonl
    """
    from serve_app.data.records import read_records
    from serve_app.ensemble.ranking.aggregation import order, ranks
    from serve_app.ensemble.ranking.pair_ranker import load_ranker

    if not (records := list(read_records(file))):
        raise DataError(f"{file}: there is no row")
    requests = [_request(record) for record in records]
    loaded = load_ranker(ranker)
    done = _ranked_before(out, records, loaded.version)
    if done:
        say(f"resumes after {done:,} rows")
    with writing(out, "give another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as lines:
            for start in range(done, len(requests), batch):
                part = range(start, min(start + batch, len(requests)))
                for number, scores in zip(part, loaded.aggregated([requests[n] for n in part], policy), strict=True):
                    if policy == "max_logits":
                        scores = loaded.informed(scores, _models(records[number]))
                    found = {
                        "scores": [round(score, 6) for score in scores.tolist()],
                        "ranks": ranks(scores).tolist(),
                        "best": order(scores)[0],
                        "ranker": loaded.version,
                    }
                    lines.write(json.dumps({**records[number].values, **found}, ensure_ascii=False) + "\n")
                lines.flush()
                say(f"{part.stop:,} of {len(requests):,} rows")
    typer.echo(f"{out}: {len(requests):,} rows ranked by {loaded.version}")


def train_ranker(
    data: Annotated[Path, typer.Option("--data", help="MixInstruct, or answers with a quality (jethro data).")],
    out: Annotated[Path, typer.Option(help="Folder for the ranker; OUT.training keeps checkpoints until the end.")],
    metrics: Annotated[str | None, typer.Option(help=_METRICS)] = None,
    form: Annotated[
        Literal["pair", "pointwise"], typer.Option(help="PairRanker, or a reward model of single candidates.")
    ] = "pair",
    encoder: Annotated[str, typer.Option(help="minilm, a Hugging Face folder, or small-from-scratch.")] = "minilm",
    joint_layers: Annotated[int | None, typer.Option(min=1, help=_JOINT)] = None,
    train_layers: Annotated[int | None, typer.Option(min=1, help="Layers trained, from the end; default all.")] = None,
    source_tokens: Annotated[int, typer.Option(min=8, help="Tokens read of a query; unused ones are shared.")] = 128,
    candidate_tokens: Annotated[int, typer.Option(min=8, help="Tokens read of a candidate.")] = 128,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 5,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak.")] = 3e-5,
    batch: Annotated[int, typer.Option(min=1, help="Queries of an optimizer step.")] = 16,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs drawn of each query in an epoch.")] = 5,
    loss: Annotated[Literal["bce", "bradley_terry", "mse"], typer.Option(help="Loss of a pair.")] = "bce",
    sampling: Annotated[
        Literal["all", "top_bottom", "random", "uniform"], typer.Option(help="How pairs are drawn.")
    ] = "all",
    weighting: Annotated[Literal["none", "gap"], typer.Option(help=_WEIGHTING)] = "none",
    split: Annotated[str | None, typer.Option(help="Only the rows of this split; default all.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same ranker.")] = 0,
) -> None:
    """Train a ranker; after a kill the same command resumes to the step.

    Of one query in ten the pairs are held back: training stops when no more of them are ordered rightly.

    \b
    Examples:
      jethro ensemble train-ranker --data lab.parquet --out var/rankers/lab
      jethro ensemble train-ranker --data train.json --metrics bartscore,bleurt --out var/rankers/mine
      jethro ensemble train-ranker --data train.json --joint-layers 2 --loss bradley_terry --out var/rankers/fast
    """
    from serve_app.ensemble.ranking.network import NetworkShape
    from serve_app.ensemble.ranking.sequence import Lengths
    from serve_app.ensemble.ranking.training import RankingRecipe

    if out.exists():
        raise ConfigError(f"{out}: exists already; give another --out, or move it away")
    rows, names = _training_rows(data, listed(metrics or ""), split)
    shape = NetworkShape(form, names, Lengths(source_tokens, candidate_tokens), joint_layers)
    recipe = RankingRecipe(
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        pairs=pairs,
        loss=loss,
        sampling=sampling,
        weighting=weighting,
        train_layers=train_layers,
        encoder=encoder,
        seed=seed,
    )
    _train(rows, shape, recipe, out)


def _train(rows: "list[ScoredCandidates]", shape: "NetworkShape", recipe: "RankingRecipe", out: Path) -> None:
    from shutil import rmtree

    from serve_app.ensemble.ranking.pair_ranker import fit_ranker

    checkpoint = out.with_name(f"{out.name}.training")
    made = fit_ranker(rows, shape, recipe, say, checkpoint)
    with writing(out, "give another --out"):
        made.save(out)
    rmtree(checkpoint, ignore_errors=True)
    error = made.about["held_back_error"]
    held = "" if error is None else f", {100 * (1 - error):.1f} % of held-back pairs right"
    typer.echo(f"{out}: {made.version}, {len(rows):,} rows, metrics {', '.join(shape.metrics)}{held}")


def _request(record: "Record") -> tuple[str, Sequence[str]]:
    """Source and candidates of a row, in the row's order whatever scores it has."""
    from serve_app.data.records import Record
    from serve_app.ensemble.fusing.training import read_row

    row = read_row(Record({k: v for k, v in record.values.items() if k != "scores"}, record.where), reference=False)
    return row.source, row.candidates


def _models(record: "Record") -> tuple[str, ...]:
    """The models that wrote a row's candidates; () unless all of them are named."""
    given: list[Any] = record.values["candidates"]
    named = [one.get("model") if isinstance(one, dict) else None for one in given]
    names = tuple(name for name in named if isinstance(name, str))
    return names if len(names) == len(given) else ()


def _ranked_before(out: Path, records: "Sequence[Record]", version: str) -> int:
    """Rows that an earlier run of this command wrote; a line that it was killed in is cut off.

    Raises ConfigError for a file of other rows or another ranker.
    """
    if not out.exists():
        return 0
    whole = out.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    lines = whole.splitlines()
    for number, line in enumerate(lines):
        if number >= len(records) or not _same(line, records[number].values, version):
            raise ConfigError(f"{out}, line {number + 1}: is not of these rows and {version}; give another --out")
    with writing(out, "give another --out"), out.open("r+b") as kept:
        kept.truncate(len(whole))
    return len(lines)


def _same(line: bytes, row: Mapping[str, Any], version: str) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("ranker") == version and found.get("candidates") == row["candidates"]


def _training_rows(
    path: Path, metrics: tuple[str, ...], split: str | None
) -> "tuple[list[ScoredCandidates], tuple[str, ...]]":
    """Scored candidates, and the metrics' names."""
    from serve_app.data.mixinstruct import candidates_of, is_mixinstruct, metrics_of, scored_candidates
    from serve_app.data.recorded import read_answers

    if is_mixinstruct(path):
        if split is not None:
            raise ConfigError(f"--split {split}: MixInstruct's files have no splits")
        names = metrics or metrics_of(path)
        return scored_candidates(path, names), names
    dataset = read_answers(path)
    if split is not None:
        kept = [i for i, name in enumerate(dataset.splits) if name == split]
        if not kept:
            raise DataError(
                f"{path}: has no split {split!r}: it has {', '.join(sorted(set(dataset.splits))) or 'none'}"
            )
        dataset = dataset.take(kept)
    return candidates_of(dataset, metrics), metrics or ("quality",)
