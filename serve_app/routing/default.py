"""Which router serves by default, and what is said of a router that does not know the models in service.

A router knows the pair of models (weak, strong) whose answers it was trained on. Its scores of any other pair are a
guess that looks learned: an operator may choose such a router, and it is then said wherever it decides. Nothing that
merely ships is chosen for a pair that it does not know: `random` serves, which sends a stated share of the queries to
each model by a hash of their text.
"""

from typing import Final

from serve_app.config.strategies import RoutingConfig
from serve_app.errors import ConfigError
from serve_app.numbers import percent
from serve_app.routing.artefact import Registered, read_card
from serve_app.routing.registry import RANDOM, Registry

FALLBACK: Final = "complexity"
"""Ships with the package, and serves where neither config nor registry names a router, if it knows the models."""
UNDECIDED: Final = "no router trained on these models is chosen: each gets a share by hash, whatever the query"
"""In the decisions of `random` where it was not chosen."""
_TRAIN: Final = (
    "train one on their answers (`jethro tune`, or `jethro data collect` and `jethro router train`), and choose it "
    "with `jethro router use NAME --as-default`"
)


def default_source(routing: RoutingConfig, registry: Registry, models: tuple[str, str]) -> str:
    """Name or folder of the default router: the config's, the registry's, or else the shipped one if it knows `models`.

    Otherwise `random`.
    """
    chosen = routing.router or registry.default()
    return chosen or (FALLBACK if models_of(registry, FALLBACK) == models else RANDOM)


def is_undecided(routing: RoutingConfig, registry: Registry, models: tuple[str, str]) -> bool:
    """Whether no router is chosen, and none that ships knows `models`."""
    return not (routing.router or registry.default()) and models_of(registry, FALLBACK) != models


def models_of(registry: Registry, name: str, version: str | None = None) -> tuple[str, str] | None:
    """The (weak, strong) models that a registered router was trained on; None for `random`. Raises ConfigError."""
    if name == RANDOM:
        return None
    models = read_card(registry.path(name, version or registry.current(name))).get("models") or {}
    return str(models.get("weak")), str(models.get("strong"))


def knows(found: Registered, models: tuple[str, str]) -> bool:
    """Whether the router was trained on the answers of these models, or needs none, as `random`."""
    return found.models is None or found.models == models


def guess_note(found: Registered, models: tuple[str, str]) -> str | None:
    """For a decision: that the router's score is a guess; None where it knows the models."""
    return (
        None if knows(found, models) else f"router {found.name} was not trained on these models: its score is a guess"
    )


def guess_statement(found: Registered, models: tuple[str, str]) -> str | None:
    """For the operator: as `guess_note`, with the models and what to do."""
    if knows(found, models) or found.models is None:
        return None
    return (
        f"router {found.name} was trained on the answers of {' and '.join(found.models)}, but serves "
        f"{' and '.join(models)}: its scores are a guess for them; {_TRAIN}"
    )


def undecided_statement(registry: Registry, models: tuple[str, str], threshold: float) -> str:
    """For the operator: that `random` serves, with its share, and the registry's routers that know the models."""
    own = [name for name in registry.names() if _knows(registry, name, models)]
    fix = _TRAIN
    if own:
        fix = (
            f"the registry has {', '.join(own)}, trained on them: choose one with `jethro router use NAME --as-default`"
        )
    return (
        f"no router trained on {' and '.join(models)} is chosen: `random` sends {percent(1 - threshold)} of the "
        f"queries to {models[1]}, by a hash of their text; {fix}"
    )


def _knows(registry: Registry, name: str, models: tuple[str, str]) -> bool:
    try:
        return models_of(registry, name) == models
    except ConfigError:  # damaged: what serves says so
        return False
