"""The queries: unseen lab queries, which can be graded, or prompts from a JSONL file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation; `answer` is the one right answer where it is known."""

    messages: tuple[dict[str, Any], ...]
    answer: str | None = None
    task: str | None = None


def lab_prompts(n: int, seed: int) -> list[Prompt]:
    """`n` queries that no lab model was trained on, balanced over task and size."""
    from serve_app.lab.sample import sample

    return [
        Prompt(({"role": "user", "content": item.prompt},), item.answer, item.task)
        for item in sample(n, seed, "unseen")
    ]


def file_prompts(path: Path, n: int) -> list[Prompt]:
    """`n` prompts from lines `{"prompt": …}` or `{"messages": […]}`, optional `answer`; the file is repeated if short.

    Raises ValueError naming the line that is wrong.
    """
    found = [_line(path, i, line) for i, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    if not found:
        raise ValueError(f"{path}: holds no prompts")
    return [found[i % len(found)] for i in range(n)]


def _line(path: Path, number: int, line: bytes) -> Prompt:
    try:
        row = orjson.loads(line)
        messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
        return Prompt(tuple(messages), row.get("answer"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f'{path}:{number}: write {{"prompt": "…"}} or {{"messages": […]}} ({e!r})') from e
