"""What is known of the conversation that a query continues."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    """The conversation that a query continues. `pool`: that answered it last, None: not known.

    `stays`: the query is to stay there. `start`: so many leading messages are what routers score, as they did when the
    conversation got there; 0: all. `shared`: an estimate of the share of the prompt that the pool has read before.
    """

    pool: str | None = None
    stays: bool = False
    start: int = 0
    shared: float = 0.0
