"""`jethro ensemble fuse` and `train-fuser`: one better answer out of several, and a model that writes it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.collect import ConcurrencyOption, ConfigOption, MaxTokensOption, PoolUrlOption, opened_pools
from serve_app.cli.options import SetOption, parse_settings, say
from serve_app.errors import ConfigError, DataError, JethroError, writing

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.records import Record
    from serve_app.ensemble.base import Fused, Ranker
    from serve_app.ensemble.fusing.gen_fuser import GenFuser
    from serve_app.ensemble.fusing.training import FusionRow

RankerOption = Annotated[Path | None, typer.Option(help="Folder of a ranker that puts the candidates in order.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU if there is one.")]
_CHUNK = 256
"""Rows between two lines of progress of a trained fuser."""
_CALL_ID = "fuse"


def fuse(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines with source (or prompt) and candidates.")],
    out: Annotated[Path, typer.Option(help="JSON lines: each row with fused, used and reason.")],
    fuser: Annotated[Path | None, typer.Option(help="Folder of a trained fuser.")] = None,
    pool: Annotated[str | None, typer.Option(help="The config's pool whose model fuses by prompt.")] = None,
    ranker: RankerOption = None,
    top: Annotated[int, typer.Option(min=2, help="With --pool: maximum number of candidates.")] = 3,
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
    max_tokens: MaxTokensOption = None,
    concurrency: ConcurrencyOption = 8,
    device: DeviceOption = None,
) -> None:
    """Fuse the candidates of every row into one better answer, with a trained fuser or any pool's model.

    Candidates are texts, or objects with text, the best first; or in the order of --ranker, or of a list of scores
    that the row has. No candidate is cut:
    what does not fit is left out, and where two do not fit the best is the answer and `reason` says why. Rows whose
    call failed have the best candidate and the error as reason.

    \b
    Examples:
      jethro ensemble fuse candidates.jsonl --fuser var/fusers/mine --out fused.jsonl
      jethro ensemble fuse candidates.jsonl --pool large --config my.yaml --max-tokens 400 --out fused.jsonl
    """
    from serve_app.data.records import read_records
    from serve_app.ensemble.fusing.training import read_row

    if (fuser is None) == (pool is None):
        raise ConfigError("give one of --fuser FOLDER and --pool NAME: what fuses")
    if not (records := list(read_records(file))):
        raise DataError(f"{file}: there is no row")
    rows = _ranked(ranker, [read_row(record, reference=False) for record in records])
    if fuser is not None:
        from serve_app.ensemble.fusing.gen_fuser import GenFuser

        found = _by_model(GenFuser.load(fuser, device), rows)
    else:
        from serve_app.config import load

        settings = load(config, settings=parse_settings(set_ or []))
        how = (str(pool), top, max_tokens, concurrency)
        found = asyncio.run(_by_pool(settings, url, how, records, rows))
    _write(out, records, rows, found)
    fused = sum(bool(one.used) for one in found)
    typer.echo(f"{out}: {fused:,} of {len(found):,} rows fused")
    if fused < len(found):
        reasons = [one.reason for one in found if not one.used]
        for reason in sorted(set(reasons), key=lambda r: -reasons.count(r))[:3]:
            typer.echo(f"  {reasons.count(reason):,} are the best candidate: {reason}")


def train_fuser(
    data: Annotated[Path, typer.Option("--data", help="Answers with references (jethro data), MixInstruct, or rows.")],
    out: Annotated[Path, typer.Option(help="Folder for the fuser; OUT.training keeps checkpoints until the end.")],
    base: Annotated[
        Path | None, typer.Option(help="Folder of a seq2seq model to begin with, Flan-T5 for instance.")
    ] = None,
    size: Annotated[str, typer.Option(help="Without --base: width x layers of a T5 over ASCII characters.")] = "64x3",
    top: Annotated[int, typer.Option(min=2, help="Candidates that the fuser reads.")] = 3,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that it reads, request and candidates together.")
    ] = 1024,
    draws: Annotated[int, typer.Option(min=1, help="Random sets of candidates of each query, in random order.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 5,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak. Default 5e-5 with --base, 2e-3 from nothing.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of rows of a step.")] = 32,
    ranker: RankerOption = None,
    split: Annotated[str | None, typer.Option(help="Only the rows of this split; default all.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same fuser.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Train a fuser; after a kill the same command resumes to the step.

    Rows have source (or prompt), candidates, and reference. Candidates must come as they will be served: with --ranker
    in its order; without, sets are drawn from recorded answers in random order, so that the fuser cannot learn that the
    first is the best.

    \b
    Examples:
      jethro ensemble train-fuser --data lab.parquet --out var/fusers/lab --epochs 20
      jethro ensemble train-fuser --data train.json --base flan-t5-large --draws 2 --out var/fusers/mine
    """
    from shutil import rmtree

    from serve_app.ensemble.fusing.training import FusionRecipe
    from serve_app.ensemble.fusing.training import train_fuser as train

    if out.exists():
        raise ConfigError(f"{out}: exists already; give another --out, or move it away")
    rows = _training_rows(data, (top, draws, seed), split, ranker)
    fuser = _start(base, size, (top, max_tokens), device, seed)
    rate = learning_rate or (2e-3 if base is None else 5e-5)
    checkpoint = out.with_name(f"{out.name}.training")
    figures = train(fuser, rows, FusionRecipe(epochs, rate, batch, seed), say, checkpoint)
    fuser.save(out, {**figures, "source": data.name, "base": base.name if base else size})
    rmtree(checkpoint, ignore_errors=True)
    loss = figures.get("held_back_loss")
    typer.echo(f"{out}: {fuser.version}, {figures['rows']:,} rows" + (f", held-back loss {loss:.4f}" if loss else ""))


def _start(base: Path | None, size: str, form: tuple[int, int], device: str | None, seed: int) -> "GenFuser":
    """The fuser to train; `form`: its candidates and tokens."""
    from serve_app.ensemble.fusing.gen_fuser import FuserSize, GenFuser, new_fuser
    from serve_app.ensemble.fusing.sequence import FusionForm

    if base is not None:
        return GenFuser.start(base, FusionForm(*form), device, seed)
    from serve_app.lab.model import build_tokenizer

    width, by, layers = size.partition("x")
    if not (by and width.isdecimal() and layers.isdecimal()):
        raise ConfigError(f"--size {size}: write width x layers, for instance 64x3")
    made = new_fuser(FuserSize(int(width), int(layers)), build_tokenizer(), FusionForm.bare(*form), seed)
    if device is not None:
        made.parts.model.to(device)
    return made


def _training_rows(
    path: Path, drawn: tuple[int, int, int], split: str | None, ranker: Path | None
) -> "list[FusionRow]":
    """Rows as they are, or drawn from recorded answers: `drawn` are candidates, sets of each query, and the seed."""
    from serve_app.data.mixinstruct import import_mixinstruct, is_mixinstruct
    from serve_app.data.recorded import read_answers
    from serve_app.data.records import read_records
    from serve_app.ensemble.fusing.training import read_row, rows_of

    if path.name.endswith((".jsonl", ".jsonl.gz")):
        records = list(read_records(path))
        texts = records and all(isinstance(c, str) for c in records[0].get("candidates") or [3])
        if texts and split is None:
            return _ranked(ranker, [read_row(record) for record in records])
    dataset = import_mixinstruct(path) if is_mixinstruct(path) else read_answers(path)
    if split is not None:
        kept = [i for i, name in enumerate(dataset.splits) if name == split]
        if not kept:
            raise DataError(
                f"{path}: has no split {split!r}: it has {', '.join(sorted(set(dataset.splits))) or 'none'}"
            )
        dataset = dataset.take(kept)
    top, draws, seed = drawn
    return rows_of(dataset, candidates=top, draws=draws, seed=seed, ranker=_loaded(ranker))


def _loaded(folder: Path | None) -> "Ranker | None":
    if folder is None:
        return None
    from serve_app.ensemble.ranking.pair_ranker import load_ranker

    return load_ranker(folder)


def _ranked(folder: Path | None, rows: "Sequence[FusionRow]") -> "list[FusionRow]":
    """The rows with their candidates in the order of the ranker in a folder; as they are without one."""
    if (ranker := _loaded(folder)) is None:
        return list(rows)
    import numpy as np

    found = []
    for row in rows:
        order = np.argsort(-ranker.scores(row.source, row.candidates), kind="stable")
        found.append(replace(row, candidates=tuple(row.candidates[i] for i in order)))
    return found


def _by_model(fuser: "GenFuser", rows: "Sequence[FusionRow]") -> "list[Fused]":
    found: list[Fused] = []
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        found += fuser.fuse([row.source for row in part], [row.candidates for row in part])
        say(f"{len(found):,} of {len(rows):,} rows")
    return found


async def _by_pool(
    config: "Config",
    url: str | None,
    how: tuple[str, int, int | None, int],
    records: "Sequence[Record]",
    rows: "Sequence[FusionRow]",
) -> "list[Fused]":
    """`how`: pool, candidates, tokens of an answer, concurrent calls. Raises the first error if every call failed."""
    from time import time

    from serve_app.data.records import messages_of
    from serve_app.ensemble.base import Fused
    from serve_app.ensemble.fusing.by_prompt import PromptFuser, PromptLimits
    from serve_app.types import Message, Query, Sampling
    from serve_app.wire.frames import Call

    name, top, max_tokens, concurrency = how
    gate, failures, done = asyncio.Semaphore(concurrency), list[JethroError](), 0

    async def one(fuser: PromptFuser, number: int) -> Fused:
        nonlocal done
        record, row = records[number], rows[number]
        messages = messages_of(record) if record.get("messages") else (Message("user", row.source),)
        query = Query(messages, Sampling(max_tokens, temperature=0.0))
        call = Call(f"{_CALL_ID}-{number}", f"{_CALL_ID}-{number}", int(time()))
        async with gate:
            try:
                found = (await fuser.complete(query, row.candidates, call)).fused
            except JethroError as error:
                failures.append(error)
                found = Fused(row.candidates[0], reason=error.message)
        done += 1
        if done % 100 == 0 or done == len(rows):
            say(f"{done:,} of {len(rows):,} rows")
        return found

    async with opened_pools(config, url, [name]) as pools:
        fuser = PromptFuser(pools[name], PromptLimits(top))
        found = list(await asyncio.gather(*(one(fuser, number) for number in range(len(rows)))))
    if failures and len(failures) == len(rows):
        raise failures[0]
    return found


def _write(out: Path, records: "Sequence[Record]", rows: "Sequence[FusionRow]", found: "Sequence[Fused]") -> None:
    """The rows with their fused answers; `used` are positions in the file's own list of candidates."""
    from serve_app.files import replacing

    with writing(out, "give another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as part, part.open("w", encoding="utf-8") as lines:
            for record, row, one in zip(records, rows, found, strict=True):
                given = [c.get("text") if isinstance(c, dict) else c for c in record.values["candidates"]]
                used = [given.index(row.candidates[position]) for position in one.used]
                body: dict[str, Any] = {**record.values, "fused": one.text, "used": used, "reason": one.reason}
                lines.write(json.dumps(body, ensure_ascii=False) + "\n")
