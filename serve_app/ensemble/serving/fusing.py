"""One answer out of the best candidates: which are fused and when, within which time, and the answer's bytes.

Where nothing can be fused, the fuser fails or is late, the best candidate stands, and the decision says why.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.ensemble.base import Fused
from serve_app.ensemble.serving.candidates import SOUND, HeldAnswer, merged
from serve_app.ensemble.serving.choosing import counts
from serve_app.ensemble.serving.served import ServedPlan
from serve_app.tracing.spans import spanned
from serve_app.types import Chunk, Query, Usage
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Call, Frame

logger = logging.getLogger("jethro.ensemble")


def to_fuse(order: Sequence[HeldAnswer], top: int) -> list[HeldAnswer]:
    """The best candidates, one of each group of near-duplicates, at most `top`."""
    firsts = {id(group[0]) for group in merged(order)}
    return [one for one in order if id(one) in firsts][:top]


def why_not_fused(query: Query, best: Sequence[HeldAnswer]) -> str:
    """Why there is nothing to fuse for this query; else ""."""
    if len(best) < 2:
        return "there is one answer only"
    if best[0].calls_tools:
        return "the best answer calls tools"
    if best[0].severity != SOUND:
        return f"the best answer {best[0].flaw}"
    sampling = query.sampling
    kind = str((query.response_format or {}).get("type", "text"))
    for what, requested in (
        ("n > 1", sampling.n > 1),
        ("logprobs", sampling.logprobs),
        ("tools", bool(query.tools)),
        ("response_format", kind != "text"),
        ("stop", bool(sampling.stop)),
    ):
        if requested:
            return f"{what} is requested, which holds for a model's own answer only"
    return ""


async def fuse(source: str, best: Sequence[HeldAnswer], served: ServedPlan, limit_s: float) -> Fused:
    """The trained fuser's answer within `limit_s` seconds; else the best candidate, with the reason."""
    texts = [one.texts[0] for one in best]
    assert served.fuse is not None
    try:
        async with asyncio.timeout(limit_s):
            with spanned("fuse"):
                fused = await served.fuse(source, texts)
    except TimeoutError:
        if counts(limit_s, served.fuse_s):
            served.fuser_cooldown.failed()
        return Fused(texts[0], reason="the fuser gave no answer in time")
    except Exception as e:
        served.fuser_cooldown.failed()
        logger.warning("the fuser failed", exc_info=e)
        return Fused(texts[0], reason=f"the fuser failed ({type(e).__name__})")
    if fused.used and not fused.text.strip():
        served.fuser_cooldown.failed()
        return Fused(texts[0], reason="the fuser wrote nothing")
    served.fuser_cooldown.succeeded()
    return fused


@dataclass(frozen=True, slots=True)
class FusedText:
    """A fused answer as the answer of `model` to the query; `usage`: of the calls that it took."""

    text: str
    model: str
    usage: Usage

    def shown(self, query: Query, call: Call, *, stream: bool) -> Answer | Frame:
        """In OpenAI's shape."""
        chunk = Chunk(0, self.text, finish_reason="stop", usage=self.usage)
        named = {"model": self.model, "answer_id": call.id, "created": call.created_s}
        if not stream:
            return Answer(encode_answer(query, [chunk], **named))  # type: ignore[arg-type]
        encoder = StreamEncoder(query, **named)  # type: ignore[arg-type]
        return Frame(encoder.encode_all([chunk]) + encoder.usage(self.usage))
