import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.learning.saved_folder import MAX_FILES, MAX_JSON_BYTES
from serve_app.routing.artefact import save_registered
from serve_app.routing.kinds.random import RandomRouter
from serve_app.routing.registry import KINDS, Registry, artefacts_dir, load_router, router_names
from tests.data.samples import sums

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
    for change, message in (
        ({"format": 2}, "format is 2, .* newer version of jethro: run that one"),
        ({"kind": "nope"}, "kind is 'nope'"),
    ):
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
        "from serve_app.gateway.catalogue import Catalogue\n"
        "from serve_app.routing.artefact import class_of, read_card\n"
        "from serve_app.routing.registry import KINDS, RANDOM, artefacts_dir, load_router, router_names\n"
        "from serve_app.types import Message, Query\n"
        "for name in router_names():\n"
        "    card = {'kind': name} if name == RANDOM else read_card(artefacts_dir() / name)\n"
        "    if class_of(None, card, KINDS).placement == 'inline':\n"  # an encoder is a network
        "        load_router(name).router.score([Query((Message('user', 'what is 1 + 1?'),))])\n"
        "print([m for m in ('sklearn', 'scipy', 'torch', 'ray', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def register(registry: Registry, seed: int = 1, name: str = "mine", **options: object) -> str:
    """A random router of that seed: its scores and version differ from another's."""
    router = RandomRouter(seed)
    calibration = Calibration.of(router.score(HELD.queries), HELD)
    threshold = Threshold.for_share(calibration, 0.4)
    return registry.register(
        router,
        name=name,
        calibration=calibration,
        threshold=threshold,
        models=("a", "b"),
        data={"digest": "x"},
        metrics={"auc": 0.5, "curve": [0.1234567]},
        **options,  # type: ignore[arg-type]
    )


def test_an_absent_folder_lists_what_ships(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none", seed=4)
    assert registry.names() == router_names() and registry.default() is None
    assert registry.load("random").version == registry.current("random") == "random-4"
    assert registry.load("complexity").version == registry.current("complexity")
    assert registry.fingerprint() == ("",) and not (tmp_path / "none").exists()


def test_the_first_version_serves_and_later_ones_when_told(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first = register(registry, 1, run={"seed": 1})
    second = register(registry, 2)
    assert registry.versions("mine") == [first, second] and registry.current("mine") == first
    third = register(registry, 3, use=True)
    assert registry.current("mine") == third and "mine" in registry.names()
    assert json.loads((tmp_path / "mine" / first / "run.json").read_text("utf-8"))["run"] == {"seed": 1}
    loaded = registry.load("mine", second)
    assert loaded.version == second and loaded.name == "mine" and isinstance(loaded.router, RandomRouter)
    assert loaded.router.seed == 2 and loaded.card["metrics"]["curve"] == [0.123457]
    registry.use("mine", second, threshold=0.125)
    assert registry.load("mine").threshold == 0.125 != registry.load("mine", second).threshold
    registry.use("mine")
    assert registry.load("mine").threshold == registry.load("mine", second).threshold


def test_the_same_router_saved_again_is_the_same_version(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert register(registry, 1) == register(registry, 1)
    assert len(registry.versions("mine")) == 1
    assert [f.name for f in (tmp_path / "mine").iterdir() if f.name.startswith(".")] == []


def test_a_version_of_a_shipped_name_stands_beside_the_shipped_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    shipped = registry.current("complexity")
    with pytest.raises(ConfigError, match=r"'complexity'.* one name would stand for two: give another, as my_complex"):
        register(registry, 1, name="complexity")
    mine = register(registry, 1)  # as versions before this one did, and as a copy by hand does
    (tmp_path / "mine").rename(tmp_path / "complexity")
    (tmp_path / "complexity" / "current").unlink()
    assert registry.versions("complexity") == [shipped, mine] and registry.current("complexity") == shipped
    registry.use("complexity", mine)
    assert isinstance(registry.load("complexity").router, RandomRouter)
    registry.use("complexity", shipped)
    assert registry.load("complexity").version == shipped


def test_the_fingerprint_follows_what_serves(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    seen = [registry.fingerprint()]
    first = register(registry, 1)
    seen.append(registry.fingerprint())
    second = register(registry, 2)
    assert registry.fingerprint() == seen[-1]
    for act in (
        lambda: registry.use("mine", second),
        lambda: registry.use("mine", second, threshold=0.5),
        lambda: registry.use_default("mine"),
    ):
        act()
        seen.append(registry.fingerprint())
    assert len(set(seen)) == 5 and registry.default() == "mine"
    registry.use("mine", first)
    registry.use("mine", second, threshold=0.5)
    assert registry.fingerprint() == seen[-1]


def test_a_version_that_fails_to_be_written_is_never_seen(tmp_path: Path) -> None:
    class Torn(RandomRouter):
        def save(self, directory: Path) -> None:
            super().save(directory)
            raise OSError("disk full")

    registry = Registry(tmp_path)
    calibration = Calibration.of(np.linspace(0, 1, len(HELD)), HELD)
    with pytest.raises(OSError, match="disk full"):
        registry.register(
            Torn(),
            name="mine",
            calibration=calibration,
            threshold=Threshold.for_share(calibration, 0.4),
            models=("a", "b"),
            data={},
            metrics={},
        )
    assert "mine" not in registry.names() and list((tmp_path / "mine").iterdir()) == []


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    for act, message in (
        (lambda: registry.load("other"), "'other'.*mine, random"),
        (lambda: registry.load("mine", "mine-0"), "'mine-0'.*random-"),
        (lambda: registry.use("mine", "mine-0"), "no version 'mine-0'"),
        (lambda: registry.use("mine", threshold=1.5), r"threshold 1\.5"),
        (lambda: registry.use_default("other"), "no router 'other'"),
        (lambda: registry.load("../mine"), "use a-z"),
        (lambda: register(registry, name="My-Router"), "use a-z"),
    ):
        with pytest.raises(ConfigError, match=message):
            act()
    (tmp_path / "mine" / "current").write_text("gone-1\n", "utf-8")
    with pytest.raises(ConfigError, match="'gone-1'"):
        registry.load("mine")


def test_artefacts_that_none_of_ours_would_be_are_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    version = register(registry, 1)
    folder = registry.path("mine", version)
    whole = (folder / "router.json").read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            registry.load("mine")

    (tmp_path / "elsewhere.json").write_bytes(whole)
    (folder / "router.json").unlink()
    (folder / "router.json").symlink_to(tmp_path / "elsewhere.json")
    refused(r"router\.json: links")
    (folder / "router.json").unlink()
    os.mkfifo(folder / "router.json")
    refused(r"router\.json: .*regular file")
    (folder / "router.json").unlink()
    with (folder / "router.json").open("wb") as big:
        big.truncate(MAX_JSON_BYTES + 1)
    refused(r"router\.json: .*268,435,457")
    (folder / "router.json").write_bytes(b"[" * 100_000)
    refused(r"router\.json: cannot be read")
    (folder / "router.json").write_bytes(whole)
    for number in range(MAX_FILES):
        (folder / f"{number}.txt").touch()
    refused("200 files")
    for number in range(MAX_FILES):
        (folder / f"{number}.txt").unlink()
    assert registry.load("mine").version == version
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    refused("links")


def test_arrays_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    monkeypatch.setattr("serve_app.learning.saved_folder.MAX_ARRAYS_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"calibration\.npz: unpacks"):
        registry.load("mine")


def test_writers_and_readers_at_once_see_whole_versions(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    known = {register(registry, seed) for seed in range(4)}
    over = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not over.is_set():
            seen.add(Registry(tmp_path).load("mine").version)

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        for turn in range(40):
            registry.use("mine", sorted(known)[turn % 4])
            known.add(register(registry, 10 + turn % 5))
        over.set()
        for one in reading:
            one.result()
    assert len(seen) > 1 and seen <= known
