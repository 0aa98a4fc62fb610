"""Small routers in a registry, quick to make: random ones, whose scores and version follow their seed."""

from pathlib import Path

from serve_app.config.tree import Config
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.routing.base import Router
from serve_app.routing.kinds.random import RandomRouter
from serve_app.routing.registry import Registry
from tests.data.samples import sums
from tests.routing.fakes import FakePool

HELD = sums(60, seed=3)
MODELS = ("m-small", "m-large")


def pools() -> dict[str, FakePool]:
    return {"small": FakePool("small"), "large": FakePool("large")}


LAB = ("jlab-small", "jlab-large")
"""Those that the shipped routers know."""


def config(registry: Path, models: tuple[str, str] = MODELS, **routing: object) -> Config:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    tree = {name: {"model": model, "engine": engine} for name, model in zip(("small", "large"), models, strict=True)}
    return Config.model_validate({"pools": tree, "routing": {"registry": str(registry), **routing}})


def register(
    registry: Registry, seed: int = 1, name: str = "mine", *, router: Router | None = None, use: bool | None = None
) -> str:
    """The version of a random router of that seed, or of the router given."""
    router = router or RandomRouter(seed)
    calibration = Calibration.of(router.score(HELD.queries), HELD)
    return registry.register(
        router,
        name=name,
        calibration=calibration,
        threshold=Threshold.for_share(calibration, 0.4),
        models=MODELS,
        data={},
        metrics={},
        queries=HELD.queries,
        use=use,
    )
