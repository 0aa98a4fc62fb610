"""The contracts of ensembles: candidates, rankers, fusers, and the plan that says whom to call and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from serve_app.arrays import Floats
from serve_app.types import Query

Selection = Literal["vote", "ranker", "logprob", "last"]
"""How the answer is picked among candidates: the weighted plurality; a ranker's best; the highest mean token
log-probability; or the answer of the last member called."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a query. `member`: the pool, or pool/adapter, that wrote it; `sample`: which of its answers.

    `logprob`: mean log-probability (natural log) of its tokens, None where the engine gave none.
    """

    member: str
    text: str
    sample: int = 0
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A question to a pairwise ranker: which of two answers to `source` is better."""

    source: str
    left: str
    right: str


class Vote(NamedTuple):
    """What one candidate says, in the plan's normalized form, and the member (pool, or pool/adapter) that said it.

    `tokens`: completion tokens of the whole answer; None where they are not known.
    """

    member: str
    answer: str
    tokens: float | None = None


class AgreementModel(Protocol):
    """How sure it is that the answer which leads among votes is right."""

    def for_query(self, query: Query) -> "AgreementModel":
        """The model with what it knows of queries like this one; microseconds."""

    def probability(self, votes: Sequence[Vote]) -> tuple[str, float]:
        """The leading answer, and the calibrated probability, in [0, 1], that it is right. At least one vote."""

    def sure(self, votes: Sequence[Vote]) -> float:
        """What is compared with `Round.stop_at`, in [0, 1]: that probability, or 1 less the gain expected of further
        rounds. At least one vote.
        """


class Ranker(Protocol):
    """A pairwise ranker. All of a batch share forward passes, of whichever requests they are."""

    @property
    def version(self) -> str:
        """Hash of what decides: `pairranker-<hash>`."""

    def compare(self, comparisons: Sequence[Comparison]) -> Floats:
        """Logit that the left answer is better, shape [n]; both orders averaged, so that swapping negates it."""

    def scores(self, source: str, candidates: Sequence[str]) -> Floats:
        """One score a candidate, higher is better, shape [n]; MaxLogits over the whole matrix."""

    def scores_of(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        """`scores` of each (source, candidates); all share forward passes."""

    def informed(self, scores: Floats, models: Sequence[str]) -> Floats:
        """`scores` with what the ranker knows of the models that wrote the candidates; as they are if that is nothing.

        `models`: one a candidate, or () where they are not known.
        """


@dataclass(frozen=True, slots=True)
class Fused:
    """One answer out of several. `used`: positions of the candidates that it was fused from.

    Where nothing was fused, `used` is empty, `text` is the best candidate as it was, and `reason` says why.
    """

    text: str
    used: tuple[int, ...] = ()
    reason: str = ""


class Fuser(Protocol):
    """Writes one answer out of several."""

    @property
    def version(self) -> str:
        """Hash of what decides: `genfuser-<hash>`."""

    def fuse(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Fused]:
        """One answer a source, from its candidates, the best first. Batches over the sources."""


@dataclass(frozen=True, slots=True)
class MemberCalls:
    """`samples` answers of one pool (`adapter`: of one of its adapters)."""

    pool: str
    samples: int = 1
    adapter: str | None = None

    @property
    def name(self) -> str:
        """`pool`, or `pool/adapter`."""
        return self.pool if self.adapter is None else f"{self.pool}/{self.adapter}"


@dataclass(frozen=True, slots=True)
class Round:
    """Calls made at once. After it, the plan stops if it is as sure of the leading answer as `stop_at`.

    `stop_at` is compared with `AgreementModel.sure` of the plan's `agreement` model; 0 always stops, as after the last
    round, and above 1 never.
    """

    calls: tuple[MemberCalls, ...]
    stop_at: float = 0.0


@dataclass(frozen=True, slots=True)
class EnsemblePlan:
    """A fitted ensemble: rounds of calls, how the answer is picked, and whether the best are fused.

    `normalizer`: which form of answers is compared for agreement (see `ensemble.agreement`). `agreement`: the state of
    the fitted agreement model as JSON, {} if none is used. `ranker` and `fuser`: folders or registered names, None if
    unused; fusing takes the `fuse_top` best candidates by the ranker. `fuser` may also be `pool:<name>`:
    that pool's model fuses by prompt. `deadline_s` after which, counted from the request, the plan answers from what it
    has, once `quorum` candidates are there. `expected` has quality, cost_usd, the share of each member's calls
    (`share:<member>`) and the quality of each member alone (`quality:<member>`), as fitted; `models` the model behind
    each pool, by pool.
    """

    rounds: tuple[Round, ...]
    select: Selection
    version: str
    normalizer: str = "text"
    agreement: Mapping[str, object] = field(default_factory=dict)
    ranker: str | None = None
    fuser: str | None = None
    fuse_top: int = 0
    quorum: int = 1
    deadline_s: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def members(self) -> tuple[MemberCalls, ...]:
        """Every call of every round, in order."""
        return tuple(call for each in self.rounds for call in each.calls)
