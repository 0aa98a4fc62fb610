"""A Learner's registry over the fake core, and a batch for it."""

from serve_app.streams.base import EventBatch, ObservedEvent, batch_to_json
from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.streams.registry import RegistryOptions, StreamRegistry
from tests.streams.fakes import FakeCore

WALK = Episode(None, None, (), (), "deferred", 0)


def opened(folder, **keeping):
    return StreamRegistry(RegistryOptions(folder, **keeping), FakeCore())


def line(registry, seq, name="mood", source="g1"):
    events = (ObservedEvent(WALK), LabeledEvent(f"word{seq}", 0, WALK, str(seq)))
    return batch_to_json(EventBatch(source, seq, name, registry.published[name].uid, events))


def labelled(registry, name="mood"):
    return registry.published[name].figures["labelled"]
