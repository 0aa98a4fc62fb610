"""A pool that stands in for a judging model: it reads the prompt as the judges write it, and answers by a script."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable

from serve_app.errors import JethroError
from serve_app.pools.base import PoolLoad
from serve_app.types import Capabilities, Price, Query
from serve_app.wire.frames import Answer, Call, Frame

Parts = dict[str, str]
PART = re.compile(
    r"^\[(?P<mark>[0-9a-f]{12}) (?P<name>[a-z ]+)\]\n(?P<text>.*?)\n\[(?P=mark) end of (?P=name)\]$", re.S | re.M
)


def parts_of(prompt: str) -> Parts:
    """What stands between the marks, by name."""
    return {found["name"]: found["text"] for found in PART.finditer(prompt)}


class FakeJudge:
    """Replies with `script(parts)`; raises the errors given, one a call, before it replies."""

    def __init__(self, script: Callable[[Parts], str], errors: list[JethroError] | None = None) -> None:
        self.name = "large"
        self.model = "fake-judge"
        self.price = Price(1.0, 10.0)
        self.capabilities = Capabilities()
        self.script = script
        self.errors = errors or []
        self.queries: list[Query] = []
        self.running = self.most = 0

    @property
    def prompts(self) -> list[str]:
        return [query.messages[0].content for query in self.queries]

    def load(self) -> PoolLoad:
        return PoolLoad(1, self.running)

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        raise NotImplementedError("judges ask for whole answers")
        yield Frame(b"")

    async def complete(self, query: Query, call: Call) -> Answer:
        self.queries.append(query)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.errors:
            raise self.errors.pop(0)
        content = self.script(parts_of(query.messages[0].content))
        body = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        return Answer(json.dumps(body).encode())

    async def aclose(self) -> None:
        pass


def by_reference(parts: Parts) -> str:
    """An honest judge of ratings: 10 for the reference itself, 1 for anything else."""
    return f"Compared.\nRATING: {10 if parts['answer'] == parts['reference'] else 1}"


def by_length(parts: Parts) -> str:
    """A steady judge of pairs: the longer answer is better, equal lengths are a tie."""
    gap = len(parts["first answer"]) - len(parts["second answer"])
    return f"VERDICT: {'FIRST' if gap > 0 else 'SECOND' if gap < 0 else 'TIE'}"


def always_first(parts: Parts) -> str:
    """A biased judge: what stands first is better."""
    return "VERDICT: FIRST"
