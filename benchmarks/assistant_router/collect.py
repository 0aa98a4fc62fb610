"""SmolLM2's answers, greedy, by the engine that serves it. Every answer is kept at once: a killed run resumes."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.assistant_router.sets import Question
from serve_app.config.engines import TransformersSettings
from serve_app.engines.transformers import HFEngine
from serve_app.types import Message, Query, Sampling

WEAK = "smollm2-135m-instruct"
AT_ONCE = 24
_REPORTED = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and the tokens of prompt and answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int


def known(path: Path) -> dict[str, Answer]:
    """The answers kept in a file, by the question's id; a line cut off by a kill is dropped."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["id"]] = Answer(row["text"], row["prompt_tokens"], row["completion_tokens"])
    return found


def collect(
    chosen: Sequence[Question], model: Path, kept: Path, threads: int, report: Callable[[str], None]
) -> dict[str, Answer]:
    """The answer to every question, by id; those in the file `kept` are not chosen again."""
    done = known(kept)
    left = sorted((q for q in chosen if q.id not in done), key=lambda q: len(q.text))  # like lengths share a pass
    if left:
        report(f"{len(left):,} of {len(chosen):,} questions are to be answered")
        asyncio.run(_answer(left, model, kept, threads, report))
    return known(kept)


async def _answer(
    chosen: Sequence[Question], model: Path, kept: Path, threads: int, report: Callable[[str], None]
) -> None:
    engine = HFEngine(WEAK, TransformersSettings(path=str(model), threads=threads, max_batch=AT_ONCE))
    await engine.start()
    gate, started, done = asyncio.Semaphore(AT_ONCE), perf_counter(), 0
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as out:

        async def one(question: Question) -> None:
            nonlocal done
            async with gate:
                query = Query(
                    (Message("user", question.text),), Sampling(temperature=0.0, max_tokens=question.max_tokens)
                )
                text, used = "", (0, 0)
                async for chunk in engine.stream(query):
                    text += chunk.text
                    if chunk.usage is not None:
                        used = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            row = {"id": question.id, "text": text, "prompt_tokens": used[0], "completion_tokens": used[1]}
            out.write(json.dumps(row) + "\n")
            out.flush()
            done += 1
            if done % _REPORTED == 0 or done == len(chosen):
                report(f"{done:,} of {len(chosen):,} answered in {perf_counter() - started:.0f} s")

        async with asyncio.TaskGroup() as tasks:
            for question in chosen:
                tasks.create_task(one(question))
    await engine.aclose()
