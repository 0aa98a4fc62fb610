"""The contracts of a stream: its spec, what a Gateway does with a query of it, and what the Learner learns from.

A Gateway acts by a StreamPolicy whose levels never change; the Learner owns the state, learns from the LLM's labels
alone, and publishes a new one when it has changed. Both are plain Python; offline replays join them in one process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
"""State as named arrays: what safetensors stores. Everything else of a state is JSON-ready."""
Row = NDArray[np.float32]
"""Features of one text, as a level reads them."""
Probabilities = NDArray[np.float64]
"""[labels], summing to 1."""
OBJECTIVES = ("accuracy", "balanced")
"""What a stream's levels learn for: the first is the default."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A named stream of queries that are answered with one label each.

    `instruction` is the LLM's task. One of `mu` (price of a unit of cost, the paper's mu) and `llm_share` (budget:
    share of queries that reach the LLM, kept by moving mu) is set. `levels`: kinds of small models, weakest first.
    `explore_floor`: lower bound of beta, `audit_share`: share of queries that go straight to the LLM whatever the
    levels decide. `objective`: "accuracy", of all answers, or "balanced", of the mean over labels of each label's
    recall. `fixes` names what departs from the released code, each switchable. `horizon`: queries over which
    `llm_share` is kept as a whole: early labels are borrowed from later queries of it, then paid back. `params`:
    hyper-parameters that are not the defaults, by the names of `LearnerSettings` ("encoder.cost", "front_load").
    """

    name: str
    labels: tuple[str, ...]
    instruction: str
    llm_pool: str = "large"
    mu: float | None = None
    llm_share: float | None = 0.2
    levels: tuple[str, ...] = ("logistic", "encoder")
    explore_floor: float = 0.0
    audit_share: float = 0.005
    objective: str = "accuracy"
    fixes: Mapping[str, bool] = field(default_factory=dict)
    seed: int = 0
    horizon: int = 5_000
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Episode:
    """One query's way up the levels: the paper's episode.

    `level` is the index of the small level that answers with label index `label`, or None: the LLM is to be called.
    `probabilities` and `deferral` have an entry for each level that was computed (early exit leaves out those above).
    `why`: "confident", "deferred", "explored" (the coin with beta), "audit", "warm-up".
    """

    level: int | None
    label: int | None
    probabilities: tuple[tuple[float, ...], ...]
    deferral: tuple[float, ...]
    why: str
    version: int


@dataclass(frozen=True, slots=True)
class LabeledEvent:
    """What the Learner learns from: a query that reached the LLM. `label` None: the answer parsed to no label.

    The last four say whose text it is, for its deletion: the decision, the request's arrival in unix seconds (0: not
    known), and the tenant and users that it names.
    """

    text: str
    label: int | None
    episode: Episode
    id: str = ""
    created_s: float = 0.0
    tenant: str | None = None
    users: tuple[str, ...] = ()


class StreamPolicy(Protocol):
    """Acts; thread-safe, cheap. A Gateway swaps it atomically."""

    version: int

    def act(self, text: str, coins: Sequence[float] | None) -> Episode:
        """`coins`: uniform draws in [0, 1), one for the audit and one for each level.

        None: the LLM cannot be called, so there is no audit, exploration or warm-up, and a level is always computed.
        """

    def observe(self, episode: Episode) -> None:
        """A query was acted on: update counts and price until the next policy comes. Nothing is learned."""

    def arrays(self) -> Arrays:
        """Everything it needs, to be sent to Gateways; `policy_from(spec, arrays)` is its inverse."""


class Learner(Protocol):
    """Learns; one owner, not thread-safe."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Compute the levels' features of texts that come next, in batches. Nothing is learned."""

    def observe(self, episode: Episode) -> None:
        """A query was acted on (answered by a level, or sent to the LLM): update budgets and counts."""

    def learn(self, labelled: LabeledEvent) -> None:
        """One LLM label. A label of None is counted and not learned from."""

    def policy(self) -> StreamPolicy:
        """The current policy; the same object until something was learned."""

    def state(self) -> tuple[Arrays, dict[str, object]]:
        """All that a restart needs: arrays and JSON-ready values (optimizer moments, replay, random state, counts)."""

    def figures(self) -> dict[str, object]:
        """For status and metrics: queries, LLM calls, share by level, updates, beta, agreement in audits, drift."""


def under(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    """Those named `prefix.…`, without the prefix."""
    return {k.removeprefix(prefix + "."): v for k, v in arrays.items() if k.startswith(prefix + ".")}


class Predictor(Protocol):
    """Class probabilities by a linear softmax over features of the text. Immutable and thread-safe."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Compute and keep features of texts that come next, where a batch is quicker than one text at a time."""

    def features(self, text: str) -> Row:
        """What it reads of a text; this is where a level's compute is spent."""

    def of(self, row: Row) -> Probabilities:
        """Class probabilities [labels] of such features."""

    def arrays(self) -> Arrays:
        """Its weights; `PREDICTORS[kind]` is the inverse."""


class Student(Protocol):
    """A level that learns from LLM labels."""

    updates: int
    """Times that its weights were updated since it began, or began again after a drift."""
    evening: float
    """In [0, 1]: how far it makes up for labels that come more often than others; set from outside."""

    @property
    def predictor(self) -> Predictor:
        """What it predicts by now; the same object until it was updated."""

    def learn(self, row: Row, label: int, age: int) -> None:
        """Take the `age`-th LLM label into the cache; a full cache updates the weights."""

    def begin_again(self, age: int) -> None:
        """Forget the weights and all labels before the `age`-th."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays that `restore` needs to resume exactly."""

    def restore(self, arrays: Arrays) -> None:
        """The inverse of `state`."""
