"""A plan in service: its pools, its ranker and fuser, and how long each may take."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from serve_app.ensemble.base import AgreementModel, EnsemblePlan, Fused
from serve_app.ensemble.serving.voting import Voting, strengths
from serve_app.grading.normalizers import Normalizer
from serve_app.pools.base import Pool
from serve_app.routing.serving.cooldown import Cooldown
from serve_app.types import Query

RankWith = Callable[[str, Sequence[str], Sequence[str]], Awaitable[Sequence[float]]]
"""A ranker's scores of candidate texts as answers to a source text, higher is better; raises what the ranker raises.

The last argument names the model that wrote each candidate.
"""

FuseWith = Callable[[str, Sequence[str]], Awaitable[Fused]]
"""A fuser's answer to a source text from candidate texts, the best first; raises what the fuser raises."""

_SENDING_S: Final = 0.5
"""For the votes, the cancelled calls and the bytes of the answer."""
_COOLDOWN_S: Final = 10.0
"""Of a ranker or a fuser that keeps failing: about as long as one may take."""


def new_cooldown() -> Cooldown:
    """Of one ranker or fuser."""
    return Cooldown(_COOLDOWN_S)


@dataclass(eq=False)
class ServedPlan:
    """A plan over pools. `name` is the strategy's; `pools` has every pool of the plan by name.

    `normalize`: the form of answers that is compared. `rank` and `fuse`: the plan's ranker and fuser, with the longest
    wait for each in seconds; `fuse_pool` fuses by prompt instead. Either has a cooldown when it keeps
    failing or is late.
    """

    name: str
    plan: EnsemblePlan
    pools: Mapping[str, Pool]
    normalize: Normalizer
    _: KW_ONLY
    agreement: AgreementModel | None = None
    rank: RankWith | None = None
    rank_s: float = 2.0
    fuse: FuseWith | None = None
    fuse_s: float = 10.0
    fuse_pool: str | None = None
    ranker_cooldown: Cooldown = field(default_factory=new_cooldown)
    fuser_cooldown: Cooldown = field(default_factory=new_cooldown)
    warning: str | None = None
    refusing: set[str] = field(default_factory=set)
    """Pools that were found to take no `n`."""

    def __post_init__(self) -> None:
        self._strengths = strengths(self.plan, self.pools)

    @property
    def fuses(self) -> bool:
        """Whether the best answers are fused."""
        return self.plan.fuse_top > 1 and (self.fuse is not None or self.fuse_pool is not None)

    @property
    def reserve_s(self) -> float:
        """Of the caller's time, what choosing, fusing and sending the answer may need."""
        ranking = self.rank_s if self.plan.select == "ranker" else 0.0
        return _SENDING_S + ranking + (self.fuse_s if self.fuses else 0.0)

    def voting(self, query: Query) -> Voting:
        """The vote of one run."""
        model = None if self.agreement is None else self.agreement.for_query(query)
        return Voting(self._strengths, model)
