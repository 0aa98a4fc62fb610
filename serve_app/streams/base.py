"""The contract between Gateways and the Learner, and that of the online learning algorithm.

A Gateway reports batches of events and takes up published policies; no query waits for either. Batches are JSON lines,
both on the way to the Learner and in its journal; arrays are in safetensors' format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import orjson
import safetensors.numpy
from numpy.typing import NDArray

from serve_app.erasure import Selection
from serve_app.streams.online.base import Arrays, Episode, LabeledEvent, Learner, StreamPolicy, StreamSpec

PREFIX: Final = "jethro-stream-"
"""Prefix of a stream's name in the `model` field."""


@dataclass(frozen=True, slots=True)
class ObservedEvent:
    """A query was acted on: answered by a level, or on its way to the LLM."""

    episode: Episode


Event = ObservedEvent | LabeledEvent


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one stream from one Gateway, in order. `source` and `seq` identify a repeated one.

    `uid` identifies the stream as created: events from before a reset are not learned from. `lost`: events that the
    Gateway had no room for; `failed`: queries that the LLM did not answer.
    """

    source: str
    seq: int
    stream: str
    uid: str
    events: tuple[Event, ...]
    lost: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """One stream as Gateways need it. `tag` names the policy with its spec; `policy` is None if the caller has it.

    `error`: why the stream is not learned now, or None.
    """

    tag: str
    uid: str
    owner: str | None
    figures: Mapping[str, Any]
    error: str | None = None
    spec: Mapping[str, Any] | None = None
    policy: bytes | None = None


@dataclass(frozen=True, slots=True)
class ActiveStream:
    """A stream as a Gateway serves it: replaced as a whole when the Learner publishes. `note`: for the Decision."""

    spec: StreamSpec
    policy: StreamPolicy
    uid: str
    owner: str | None
    tag: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class StreamCreate:
    """A requested stream. `reset`: discard what was learned under this name."""

    spec: StreamSpec
    owner: str | None = None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """A new budget of a stream: exactly one of the two. `horizon` stays as it is where it is None."""

    mu: float | None = None
    llm_share: float | None = None
    horizon: int | None = None


class LearnerPort(Protocol):
    """The Learner as Gateways know it. Every call may raise any error of a process that is away."""

    async def report(self, batch: bytes) -> None:
        """Events; when this returns no kill of the Learner can lose them. Repeating a batch changes nothing."""

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """All streams by name; policies only of those whose tag differs from the one in `known`."""

    async def create(self, request: StreamCreate) -> None:
        """Create a stream. Raises Conflict if another one has the name, Overloaded if there are too many."""

    async def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """Change a budget live. Raises NotFound, also where another tenant owns the stream."""

    async def delete(self, name: str, owner: str | None = None) -> None:
        """Delete a stream and what was learned. Raises NotFound, as above."""

    async def erase(self, selection: Selection, before_s: float) -> None:
        """Take texts of requests until `before_s` out of all journals, and store none that come later."""


class Core(Protocol):
    """The algorithm behind streams."""

    def new(self, spec: StreamSpec) -> Learner:
        """A learner that has learned nothing. Raises ConfigError for a spec that it cannot learn."""

    def restored(self, spec: StreamSpec, arrays: Arrays, values: Mapping[str, Any]) -> Learner:
        """The learner that `state()` was taken of."""

    def policy(self, spec: StreamSpec, arrays: Arrays) -> StreamPolicy:
        """The policy that `arrays()` was taken of."""


class OnlineCore:
    """Online cascade learning (`streams.online`), imported when a stream is first created or served."""

    def new(self, spec: StreamSpec) -> Learner:
        """See Core."""
        from serve_app.streams.online.learner import OnlineCascade

        return OnlineCascade(spec)

    def restored(self, spec: StreamSpec, arrays: Arrays, values: Mapping[str, Any]) -> Learner:
        """See Core."""
        from serve_app.streams.online.learner import OnlineCascade

        return OnlineCascade.restored(spec, arrays, dict(values))

    def policy(self, spec: StreamSpec, arrays: Arrays) -> StreamPolicy:
        """See Core."""
        from serve_app.streams.online.policy import policy_from

        return policy_from(spec, arrays)


@dataclass(slots=True)
class StreamCounts:
    """Counts of a stream's queries by outcome, over its whole life."""

    queries: int = 0
    llm_calls: int = 0
    labelled: int = 0
    unparsed: int = 0
    lost: int = 0
    failed: int = 0
    refused: int = 0
    """Events that the learner could not take: they were left out."""
    levels: dict[str, int] = field(default_factory=dict)
    """Answers by small level."""


def batch_to_json(batch: EventBatch) -> bytes:
    """One line without its end."""
    values = {field: getattr(batch, field) for field in ("source", "seq", "stream", "uid", "lost", "failed")}
    return orjson.dumps({**values, "events": [_event(e) for e in batch.events]})


def batch_from_json(line: bytes) -> EventBatch:
    """The batch that `batch_to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    values = orjson.loads(line)
    events = tuple(_event_of(e) for e in values.pop("events"))
    return EventBatch(events=events, **values)


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """The arrays in safetensors' format."""
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def arrays_from_bytes(data: bytes) -> Mapping[str, NDArray[np.generic]]:
    """The arrays; raises safetensors.SafetensorError for anything else."""
    found: Mapping[str, NDArray[np.generic]] = safetensors.numpy.load(data)
    return found


def _event(event: Event) -> dict[str, Any]:
    e = event.episode
    values: dict[str, Any] = {"walk": [e.level, e.label, e.probabilities, e.deferral, e.why, e.version]}
    if isinstance(event, ObservedEvent):
        return values
    by = [event.created_s, event.tenant, event.users]
    return values | {"text": event.text, "label": event.label, "id": event.id, "by": by}


def _event_of(event: Mapping[str, Any]) -> Event:
    level, label, probabilities, deferral, why, version = event["walk"]
    episode = Episode(level, label, tuple(tuple(p) for p in probabilities), tuple(deferral), why, version)
    if "text" not in event:
        return ObservedEvent(episode)
    created_s, tenant, users = event.get("by", (0.0, None, ()))  # an earlier version does not say
    return LabeledEvent(event["text"], event["label"], episode, event["id"], created_s, tenant, tuple(users))
