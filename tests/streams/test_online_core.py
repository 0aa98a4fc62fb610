"""The real algorithm behind the service: it resumes exactly, and a Gateway acts by what was published."""

import random

import numpy as np
import pytest

from serve_app.errors import RequestError
from serve_app.streams.base import (
    BudgetChange,
    EventBatch,
    ObservedEvent,
    OnlineCore,
    StreamCreate,
    arrays_from_bytes,
    batch_to_json,
)
from serve_app.streams.online.base import LabeledEvent
from serve_app.streams.registry import RegistryOptions, StreamRegistry
from serve_app.streams.spec import spec_from_json
from tests.streams.fakes import spec

CORE = OnlineCore()
WORDS = (["sun", "laugh", "gift", "friend", "song"], ["dark", "alone", "knife", "storm", "fall"])


def text(rng, label):
    return " ".join(rng.choices(WORDS[label], k=3))


class Gateway:
    """Acts by the policy as published, and reports each query by itself."""

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.seq = 0

    def query(self, registry):
        published = registry.published["mood"]
        policy = CORE.policy(spec_from_json(published.spec), arrays_from_bytes(published.policy))
        label = self.rng.randrange(2)
        asked = text(self.rng, label)
        episode = policy.act(asked, [self.rng.random() for _ in range(2)])
        events = (
            [ObservedEvent(episode)]
            if episode.level is not None
            else [ObservedEvent(episode), LabeledEvent(asked, label, episode)]
        )
        self.seq += 1
        registry.report(batch_to_json(EventBatch("g1", self.seq, "mood", published.uid, tuple(events))))
        return episode.label == label if episode.level is not None else None


def opened(folder):
    return StreamRegistry(RegistryOptions(folder, checkpoint_events=70), CORE)


def killed(registry):
    """No checkpoint, no farewell: as SIGKILL leaves it, but for the lock, which the kernel would free."""
    registry._streams, streams = {}, registry._streams
    for stream in streams.values():
        stream.close()
    registry.close()


def told(registry):
    """Everything that is published, but for what says that it was restored."""
    published = registry.published["mood"]
    figures = {k: v for k, v in published.figures.items() if k not in ("created_s", "opened_s", "restored_events")}
    return published.tag.split(".")[1:], figures, arrays_from_bytes(published.policy)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"llm_share": 0.3}, {"llm_share": None, "mu": 1e-4}])
def test_a_stream_that_is_killed_ten_times_is_the_same_as_one_that_is_not(tmp_path, budget):
    made = StreamCreate(spec(horizon=400, **budget))
    whole, cut = opened(tmp_path / "whole"), opened(tmp_path / "cut")
    gateways = Gateway(), Gateway()
    for registry in (whole, cut):
        registry.create(made)
    for number in range(400):
        right = [gateway.query(registry) for gateway, registry in zip(gateways, (whole, cut), strict=True)]
        assert right[0] == right[1]
        if number == 150:
            for registry in (whole, cut):
                registry.budget("mood", BudgetChange(llm_share=0.25, horizon=500))
        if number % 40 == 20:
            killed(cut)
            cut = opened(tmp_path / "cut")
    (tag, figures, arrays), (same_tag, same_figures, same_arrays) = told(whole), told(cut)
    assert (same_tag, same_figures) == (tag, figures)
    assert all(np.array_equal(arrays[k], same_arrays[k]) for k in arrays)
    assert figures["share"]["logistic"] > 0.3
    whole.close()
    cut.close()


@pytest.mark.slow
def test_the_small_level_learns_the_words(tmp_path):
    registry, gateway = opened(tmp_path), Gateway(1)
    registry.create(StreamCreate(spec(horizon=600)))
    answers = [gateway.query(registry) for _ in range(600)]
    own = [right for right in answers[300:] if right is not None]
    assert len(own) > 200
    assert np.mean(own) > 0.95
    assert registry.published["mood"].figures["refused"] == 0
    registry.close()


@pytest.mark.parametrize(
    ("change", "message"), [({"fixes": {"magic": True}}, "magic"), ({"params": {"x": 1.0}}, "'x'")]
)
def test_what_only_the_algorithm_knows_to_refuse_is_the_callers_mistake(tmp_path, change, message):
    registry = opened(tmp_path)
    with pytest.raises(RequestError, match=message):
        registry.create(StreamCreate(spec(**change)))
    assert registry.published == {}
    registry.create(StreamCreate(spec()))
    with pytest.raises(RequestError, match=message):
        registry.create(StreamCreate(spec(**change), reset=True))
    assert registry.published["mood"].spec["mends"] == {}
    registry.delete("mood")
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]
    registry.close()
