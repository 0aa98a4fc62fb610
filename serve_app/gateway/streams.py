"""The catalogue of model names with the streams among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.strategy import Strategy
from serve_app.streams.base import PREFIX
from serve_app.streams.service import Streams


class Listed(Protocol):
    """One name with its line."""

    @property
    def id(self) -> str:
        """The name."""

    @property
    def description(self) -> str:
        """What asking for it does."""


class Names(Protocol):
    """A catalogue."""

    def resolve(self, model: str) -> Strategy:
        """The strategy behind a name. Raises ModelNotFound."""

    def models(self) -> Sequence[Listed]:
        """All names worth listing."""


@dataclass(frozen=True, slots=True)
class _Stream:
    id: str
    description: str = "a stream: one label for one text, learned online"


class WithStreams:
    """Another catalogue's names, and `jethro-stream-NAME` for every stream."""

    def __init__(self, others: Names, streams: Streams) -> None:
        self._others = others
        self._streams = streams

    def resolve(self, model: str) -> Strategy:
        """The strategy behind a name. Raises ModelNotFound; of a stream only when it runs."""
        return self._streams.strategy(model) if model.startswith(PREFIX) else self._others.resolve(model)

    def models(self) -> Sequence[Listed]:
        """The others' first."""
        return [*self._others.models(), *(_Stream(PREFIX + name) for name in self._streams.names())]
