"""References to routers: one grammar for commands, config and artefacts."""

from pathlib import Path
from shutil import copytree

import pytest

from serve_app.errors import ConfigError
from serve_app.routing.reference import open_reference, pinned, split_reference
from serve_app.routing.registry import Registry, artefacts_dir, shipped_version

SHIPPED = str(shipped_version("complexity"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The shipped router under a name of one's own."""
    copytree(artefacts_dir() / "complexity", tmp_path / "routers" / "mine" / SHIPPED)
    return Registry(tmp_path / "routers")


def test_a_reference_has_a_source_and_maybe_a_version(tmp_path: Path) -> None:
    assert split_reference("mine") == ("mine", None)
    assert split_reference("mine@knn-1a") == ("mine", "knn-1a")
    (folder := tmp_path / "a@b").mkdir()
    assert split_reference(str(folder)) == (str(folder), None)
    assert split_reference(f"{folder}@knn-1a") == (str(folder), "knn-1a")
    for wrong in ("mine@", "@knn-1a", "mine@a b"):
        with pytest.raises(ConfigError, match="NAME@VERSION"):
            split_reference(wrong)


def test_a_router_by_name_version_and_folder_is_one(registry: Registry) -> None:
    folder = str(registry.folder / "mine" / SHIPPED)
    names = ("mine", f"mine@{SHIPPED}", folder, f"{folder}@{SHIPPED}")
    found = [open_reference(registry, name) for name in names]
    assert {one.version for one in found} == {SHIPPED}
    assert {pinned(registry, name, one) for name, one in zip(names, found, strict=True)} == {f"mine@{SHIPPED}"}
    elsewhere = str((artefacts_dir() / "complexity").absolute())
    assert pinned(registry, elsewhere, open_reference(registry, elsewhere)) == f"{elsewhere}@{SHIPPED}"
    assert pinned(registry, "complexity", open_reference(registry, "complexity")) == f"complexity@{SHIPPED}"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nobody", r"no router 'nobody': .*have .*mine.*NAME@VERSION"),
        ("mine@knn-00000000", r"router mine has no version 'knn-00000000' in .*routers: it has complexity-"),
        ("random@random-7", r"random has no version 'random-7'.*routing.seed"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(registry: Registry, reference: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_reference(registry, reference)


def test_a_folder_that_holds_another_version_is_refused(registry: Registry) -> None:
    folder = registry.folder / "mine" / SHIPPED
    with pytest.raises(ConfigError, match=rf"is {SHIPPED}, not complexity-00000000"):
        open_reference(registry, f"{folder}@complexity-00000000")


def test_random_is_pinned_by_its_seed(tmp_path: Path) -> None:
    seven = Registry(tmp_path, seed=7)
    assert pinned(seven, "random", open_reference(seven, "random")) == "random@random-7"
    assert open_reference(seven, "random@random-7").version == "random-7"
