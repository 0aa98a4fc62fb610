"""The models of /v1/embeddings: by their own names alone, since no router chooses between vectors of two models."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from serve_app.errors import ModelNotFound
from serve_app.pools.base import Pool
from serve_app.routing.strategy import DirectStrategy
from serve_app.strategy import Context, Event, Strategy
from serve_app.types import Decision, Query
from serve_app.wire.embeddings import EmbeddingAnswer


class EmbeddingStrategy(DirectStrategy):
    """One embedding pool; the decision warns where inputs were cut to the model's window."""

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """See the contract."""
        held: Decision | None = None
        async with aclosing(super().run(query, context)) as events:
            async for event in events:
                if isinstance(event, Decision):
                    held = event
                    continue
                if held is not None:
                    yield _warned(held, event)
                    held = None
                yield event


class Embedders:
    """Model ids to strategies."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self.pools = pools
        self._named: dict[str, Strategy] = {pool.model: EmbeddingStrategy(pool) for pool in pools.values()}

    def __contains__(self, model: str) -> bool:
        return model in self._named

    def resolve(self, model: str, *, chats: bool) -> Strategy:
        """The strategy for a `model` field; `chats`: the name is known to chat. Raises ModelNotFound."""
        if (strategy := self._named.get(model)) is not None:
            return strategy
        if not self._named:
            raise ModelNotFound(
                "This endpoint has no embedding model: add a pool with engine.kind encoder (all-MiniLM-L6-v2, which "
                "ships), or one with engine.kind openai and engine.embeddings true.",
                param="model",
            )
        fault = "is no embedding model" if chats else "does not exist"
        raise ModelNotFound(f"The model {model[:100]!r} {fault}: use {', '.join(self._named)}", param="model")

    def refuse_chat(self, model: str) -> None:
        """Raises ModelNotFound for an embedding model, which answers no chat."""
        if model in self._named:
            raise ModelNotFound(
                f"{model} is an embedding model and answers no chat: call /v1/embeddings, or use a chat model.",
                param="model",
            )


def _warned(decision: Decision, answer: Event) -> Decision:
    if not isinstance(answer, EmbeddingAnswer) or not (cut := answer.truncated):
        return decision
    inputs = "1 input was" if cut == 1 else f"{cut} inputs were"
    return replace(decision, warning=f"{inputs} longer than the model's window: only the beginning is embedded")
