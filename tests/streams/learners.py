"""A Learner's registry over the fake core, and a batch for it."""

from serve_app.streams.base import Batch, Saw, batch_to_json
from serve_app.streams.online.base import Labelled, Walk
from serve_app.streams.registry import Keeping, StreamRegistry
from tests.streams.fakes import FakeCore

WALK = Walk(None, None, (), (), "deferred", 0)


def opened(folder, **keeping):
    return StreamRegistry(Keeping(folder, **keeping), FakeCore())


def line(registry, seq, name="mood", source="g1"):
    events = (Saw(WALK), Labelled(f"word{seq}", 0, WALK, str(seq)))
    return batch_to_json(Batch(source, seq, name, registry.published[name].uid, events))


def labelled(registry, name="mood"):
    return registry.published[name].figures["labelled"]
