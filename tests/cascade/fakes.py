"""Engines that answer by script, a signal that reads doubt off the text, and a chain of both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.cascade.base import Chain, Level, Needs
from serve_app.data.answers import AnswerEvidence
from serve_app.engines.local_pool import LocalPool
from serve_app.strategy import Context, Event, Spent, Strategy
from serve_app.types import Capabilities, Decision, Message, Price, Query, Sampling
from serve_app.wire.frames import Answer, Call
from tests.fakes import FakeEngine

CALL = Call("d1", "r1", 1_700_000_000)
SURE, UNSURE, WEAK, STRONG = "sure one", "hm? two", "small", "large"


LOGPROBS, NOTHING = Needs(logprobs=True, top_logprobs=2), Needs()


@dataclass(frozen=True)
class Doubt:
    """1 without a question mark in the answer, 0.2 with one; nan for an empty answer."""

    needs: Needs = LOGPROBS
    name: str = "doubt"

    def value(self, judged: AnswerEvidence) -> float:
        if not judged.text:
            return math.nan
        return 0.2 if "?" in judged.text else 1.0


@dataclass(frozen=True)
class Seen:
    """Keeps what it is shown, and is always so sure."""

    sure: float = 1.0
    needs: Needs = NOTHING
    shown: list[AnswerEvidence] = field(default_factory=list)
    name: str = "seen"

    def value(self, judged: AnswerEvidence) -> float:
        self.shown.append(judged)
        return self.sure


class Same:
    """The signal is the probability."""

    def probability(self, value: float) -> float:
        return 0.0 if math.isnan(value) else value


def chain(
    signal: object | None = None,
    *,
    probe_tokens: int | None = None,
    levels: Sequence[str] = (WEAK, STRONG),
    limits: Mapping[str, float] | None = None,
) -> Chain:
    checked = [Level(n, signal or Doubt(), Same(), 0.5, (limits or {}).get(n, 1.0)) for n in levels[:-1]]  # type: ignore[arg-type]
    return Chain((*checked, Level(levels[-1])), "cascade-test", {"quality": 0.9}, probe_tokens)


def engine(says: str | Sequence[str], name: str = WEAK, **options: object) -> FakeEngine:
    """Says these pieces (a string: a character each), whatever it is asked."""
    return FakeEngine(f"m-{name}", script=lambda query, index: list(says), **options)  # type: ignore[arg-type]


def pool(says: str | Sequence[str], name: str = WEAK, price: float = 1.0, **options: object) -> LocalPool:
    return LocalPool(name, engine(says, name, **options), Price(price, 10 * price))


def engine_of(pool: LocalPool) -> FakeEngine:
    found = pool._engine
    assert isinstance(found, FakeEngine)
    return found


def pools(weak: str | Sequence[str] = SURE, strong: str | Sequence[str] = "strong") -> dict[str, LocalPool]:
    return {WEAK: pool(weak), STRONG: pool(strong, STRONG, 100.0)}


def query(text: str = "what?", **sampling: object) -> Query:
    return Query((Message("user", text),), Sampling(**sampling))  # type: ignore[arg-type]


TOOLS = Capabilities(tools=True, max_context_tokens=4096)


async def run(
    strategy: Strategy, asked: Query | None = None, *, stream: bool = False, call: Call = CALL
) -> list[Event]:
    return [event async for event in strategy.run(asked or query(), Context(call, stream))]


def told(events: Sequence[Event]) -> tuple[Decision, str, Spent]:
    """Decision, text of the first choice, and what was spent."""
    decision, *middle, spent = events
    assert isinstance(decision, Decision) and isinstance(spent, Spent)
    return decision, text(middle), spent


def text(middle: Sequence[Event], index: int = 0) -> str:
    if len(middle) == 1 and isinstance(middle[0], Answer):
        return str(middle[0].parsed["choices"][index]["message"]["content"])
    said = ""
    for frame in middle:
        for event in frame.events:  # type: ignore[union-attr]
            said += "".join(c["delta"].get("content") or "" for c in event["choices"] if c["index"] == index)
    return said
