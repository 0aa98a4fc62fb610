"""Guards over scripted pools, and an answer cut into pieces in any way."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from serve_app.config.guards import GuardsConfig
from serve_app.config.placement import PersonalDataConfig
from serve_app.guards.answers import guarded
from serve_app.guards.chain import Guards
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Chunk, Decision, Message, Query, Usage
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Call, Frame

CALL = Call("d1", "r1", 1_700_000_000)
QUERY = Query((Message("user", "x"),))
USAGE = Usage(3, 5)


def guards(*chain: Mapping[str, Any], pools: Mapping[str, Any] | None = None, **options: Any) -> Guards:
    config = GuardsConfig(chain=chain, **options)  # type: ignore[arg-type]
    return Guards(config, config.chain, PersonalDataConfig(), pools or {})


async def events(pieces: Sequence[str], stream: bool, query: Query = QUERY) -> AsyncGenerator[Event]:
    """A strategy's events for an answer in these pieces, a frame each."""
    yield Decision("d1", "direct", "small", "m-small", "because")
    chunks = [Chunk(text=piece) for piece in pieces]
    end = Chunk(finish_reason="stop", usage=USAGE)
    if stream:
        encoder = StreamEncoder(query, model="m-small", answer_id="d1", created=1)
        for chunk in chunks:
            yield Frame(encoder.encode(chunk))
        yield Frame(encoder.encode(end) + encoder.usage(USAGE))
    else:
        yield Answer(encode_answer(query, [*chunks, end], model="m-small", answer_id="d1", created=1))
    yield Spent(())


async def leaving(made: Guards, pieces: Sequence[str], stream: bool = True) -> tuple[list[str], str, Counter[str]]:
    """The texts of the frames that leave, the finish reason, and the findings."""
    found: Counter[str] = Counter()
    context, texts, finish = Context(CALL, stream), [], ""
    async for event in guarded(events(pieces, stream), made, QUERY, context, found.update):
        for body in event.events if isinstance(event, Frame) else [event.parsed] if isinstance(event, Answer) else []:
            for choice in body["choices"]:
                texts.append((choice.get("delta") or choice.get("message") or {}).get("content") or "")
                finish = choice.get("finish_reason") or finish
    return texts, finish, found
