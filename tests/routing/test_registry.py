import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.errors import ConfigError
from serve_app.routing.random import RandomRouter
from serve_app.routing.registry import KINDS, artefacts_dir, load_router, router_names, save_registered
from serve_app.routing.threshold import Calibration, Threshold
from tests.learning.data import sums

HELD = sums(50, seed=3)


def saved(folder: Path, seed: int = 7) -> str:
    router = RandomRouter(seed)
    calibration = Calibration.of(router.score(HELD.queries), HELD)
    threshold = Threshold.for_share(calibration, 0.4)
    return save_registered(folder, router, calibration, threshold, ("a", "b"), {"digest": "x"}, {"auc": 0.5})


def test_round_trip(tmp_path: Path) -> None:
    version = saved(tmp_path)
    found = load_router(str(tmp_path))
    assert found.version == version and found.models == ("a", "b") and isinstance(found.router, RandomRouter)
    assert found.router.seed == 7 and found.card["metrics"] == {"auc": 0.5}
    assert found.calibration is not None
    assert (found.calibration.scores >= found.threshold).mean() == pytest.approx(0.4)


def test_version_follows_what_was_saved(tmp_path: Path) -> None:
    assert saved(tmp_path / "a") == saved(tmp_path / "b") != saved(tmp_path / "c", seed=8)


def test_broken_cards_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    for change, message in (({"format": 2}, "format is 2"), ({"kind": "mf"}, "kind is 'mf'")):
        (tmp_path / "card.json").write_text(json.dumps({**card, **change}), "utf-8")
        with pytest.raises(ConfigError, match=message):
            load_router(str(tmp_path))
    for key in ("models", "threshold", "version"):
        broken = {k: v for k, v in card.items() if k != key}
        (tmp_path / "card.json").write_text(json.dumps(broken), "utf-8")
        with pytest.raises(ConfigError, match=rf"card\.json.*{key}"):
            load_router(str(tmp_path))


def test_random_is_always_there_with_the_configs_seed() -> None:
    found = load_router("random", seed=3)
    assert "random" in router_names() and found.version == "random-3"
    assert isinstance(found.router, RandomRouter) and found.router.seed == 3


def test_every_shipped_artefact_loads_and_is_of_a_known_kind() -> None:
    for name in router_names():
        found = load_router(name)
        assert found.router.name in KINDS and 0.0 <= found.threshold <= 1.0
        if found.calibration is not None:
            share = float((found.calibration.scores >= found.threshold).mean())
            assert share == pytest.approx(found.card["metrics"]["strong_share"], abs=1e-6)
    assert artefacts_dir().name == "artefacts"


def test_serving_never_imports_training_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from serve_app.routing.catalogue import Catalogue\n"
        "from serve_app.routing.registry import load_router, router_names\n"
        "from serve_app.types import Message, Query\n"
        "for name in router_names():\n"
        "    load_router(name).router.score([Query((Message('user', 'what is 1 + 1?'),))])\n"
        "print([m for m in ('sklearn', 'scipy', 'torch', 'ray', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
