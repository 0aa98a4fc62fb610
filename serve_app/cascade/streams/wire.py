"""Batches of events as JSON lines: what crosses to the Learner is what its journal keeps. Arrays as safetensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import safetensors.numpy
from numpy.typing import NDArray

from serve_app.cascade.online.base import Arrays, Labelled, Walk
from serve_app.cascade.streams.base import Batch, Event, Saw


def batch_to_json(batch: Batch) -> bytes:
    """One line without its end."""
    told = {
        "source": batch.source,
        "seq": batch.seq,
        "stream": batch.stream,
        "uid": batch.uid,
        "lost": batch.lost,
        "failed": batch.failed,
        "events": [_event(e) for e in batch.events],
    }
    return orjson.dumps(told)


def batch_from_json(line: bytes) -> Batch:
    """The batch that `batch_to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    told = orjson.loads(line)
    events = tuple(_event_of(e) for e in told.pop("events"))
    return Batch(events=events, **told)


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """The arrays in safetensors' format."""
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def arrays_from_bytes(data: bytes) -> Mapping[str, NDArray[np.generic]]:
    """The arrays; raises safetensors.SafetensorError for anything else."""
    found: Mapping[str, NDArray[np.generic]] = safetensors.numpy.load(data)
    return found


def _event(event: Event) -> dict[str, Any]:
    if isinstance(event, Saw):
        return {"walk": _walk(event.walk)}
    return {"walk": _walk(event.walk), "text": event.text, "label": event.label, "id": event.id}


def _event_of(told: Mapping[str, Any]) -> Event:
    walk = _walk_of(told["walk"])
    return Labelled(told["text"], told["label"], walk, told["id"]) if "text" in told else Saw(walk)


def _walk(walk: Walk) -> list[Any]:
    return [walk.level, walk.label, walk.probabilities, walk.deferral, walk.why, walk.version]


def _walk_of(told: list[Any]) -> Walk:
    level, label, probabilities, deferral, why, version = told
    return Walk(level, label, tuple(tuple(p) for p in probabilities), tuple(deferral), why, version)
