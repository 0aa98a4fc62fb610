"""A stream that can be learned without an encoder of language: words of a class's own, and noise words."""

from collections.abc import Callable

import numpy as np
import pytest

from serve_app.streams.online.base import LabeledEvent, StreamSpec
from serve_app.streams.online.learner import OnlineCascade

LABELS = ("red", "green", "blue")
Query = tuple[str, int]


def make_spec(**changed: object) -> StreamSpec:
    given: dict[str, object] = {"name": "s", "labels": LABELS, "instruction": "", "levels": ("logistic",)}
    return StreamSpec(**(given | {"horizon": 600} | changed))  # type: ignore[arg-type]


def make_queries(n: int, seed: int, shift: int = 0) -> list[Query]:
    """Each text has two words of its class out of ten, and six of noise."""
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(n):
        label = int(rng.integers(3))
        own = [f"{LABELS[label]}word{i}" for i in rng.integers(10, size=2)]
        noise = [f"noise{i}" for i in rng.integers(50, size=6)]
        queries.append((" ".join(own + noise), (label + shift) % 3))
    return queries


def drive(learner: OnlineCascade, queries: list[Query], seed: int = 0) -> list[tuple[int | None, int]]:
    """What a service does, the labels being the LLM's; (level, answer) of each query."""
    rng = np.random.default_rng(seed)
    told = []
    for text, label in queries:
        episode = learner.policy().act(text, rng.random(1 + len(learner.spec.levels)))
        learner.observe(episode)
        if episode.level is None:
            learner.learn(LabeledEvent(text, label, episode))
        told.append((episode.level, label if episode.label is None else episode.label))
    return told


@pytest.fixture
def spec() -> Callable[..., StreamSpec]:
    return make_spec


@pytest.fixture
def queries() -> Callable[..., list[Query]]:
    return make_queries


@pytest.fixture
def driven() -> Callable[..., list[tuple[int | None, int]]]:
    return drive
