"""What a decision says where an embedded model answers a text that is none of its tasks.

The embedded models know the lab's tasks alone and, on anything else, at best say so. A newcomer with a question about
Hamlet should learn that from the reply itself, and how to serve a model of real English.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, Self

from serve_app.config.tree import Config
from serve_app.lab.scope import Scope, shipped_scope
from serve_app.streams.base import PREFIX
from serve_app.types import Decision, Query

WARNING: Final = (
    "These embedded models know small tasks only (arithmetic, sorting, letters, dates, units, look-ups), and this text "
    "is none of them: serve a model of real English with `make serve CONFIG=assistant`, or your own models"
)


@dataclass(frozen=True, slots=True)
class ScopeNotes:
    """`pools` are those with an embedded model."""

    pools: Collection[str] = ()
    scope: Scope | None = None

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The notes of a config; without embedded models nothing is read."""
        pools = frozenset(name for name, pool in config.pools.items() if pool.embedded)
        return cls(pools, shipped_scope() if pools else None)

    def noted(self, model: str, query: Query, decision: Decision) -> Decision:
        """The decision on a request of `model`, with a warning if a model answers what it does not know; 0.1 ms.

        Read is the last user turn. A stream's texts are labelled by models of its own.
        """
        if self.scope is None or decision.pool not in self.pools or model.startswith(PREFIX):
            return decision
        if self.scope.knows(_last_turn(query)):
            return decision
        said = WARNING if decision.warning is None else f"{decision.warning}; {WARNING}"
        return replace(decision, warning=said)


def _last_turn(query: Query) -> str:
    """What the user said last; the whole prompt of a completion is one turn."""
    return next((m.content for m in reversed(query.messages) if m.role == "user"), query.messages[-1].content)
