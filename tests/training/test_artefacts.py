"""A router is never measured on what it learned from."""

from pathlib import Path

import pytest

from serve_app.data.near_duplicates import FINGERPRINTS, known_rows, load_fingerprints, save_fingerprints, text_hashes
from serve_app.errors import ConfigError, DataError
from serve_app.routing.registry import Registry
from serve_app.training.artefacts import learned_from, open_router, unlearned
from serve_app.training.training import TrainingRun, register, train
from serve_app.types import Message, Query
from tests.data.samples import sums


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = Registry(tmp_path_factory.mktemp("routers"))
    data = sums(300, seed=1)
    register(train(TrainingRun("complexity", "d"), data), data, folder, "mine")
    return folder


def queries(*texts: str) -> tuple[Query, ...]:
    return tuple(Query((Message("user", t),)) for t in texts)


def test_routers_are_found_by_name_version_and_folder(registry: Registry) -> None:
    version = registry.current("mine")
    folder = registry.path("mine", version)
    for which in ("mine", f"mine@{version}", str(folder)):
        found = open_router(registry, which)
        assert found.registered.version == version and found.folder == folder
    assert open_router(registry, "random").folder is None
    with pytest.raises(ConfigError, match="no router 'none'"):
        open_router(registry, "none")
    with pytest.raises(ConfigError, match="no version 'other'"):
        open_router(registry, "mine@other")


def test_its_own_data_are_refused_whole(registry: Registry) -> None:
    data = sums(300, seed=1)
    assert len(learned_from(open_router(registry, "mine"), data)) == 300
    with pytest.raises(DataError, match=r"own: 300 of 300 .*row 0 \(id '0'\)"):
        unlearned(open_router(registry, "mine"), data, "own", True, print)


def test_single_queries_are_refused_by_row_or_left_out(registry: Registry) -> None:
    found = open_router(registry, "mine")
    known = {int(h) for h in text_hashes(sums(300, seed=1).queries)}
    data = sums(50, seed=5)
    expected = [i for i, h in enumerate(text_hashes(data.queries)) if int(h) in known]
    assert expected and learned_from(found, data).tolist() == expected
    with pytest.raises(DataError, match=rf"row {expected[0]} \(id '{expected[0]}'\)"):
        unlearned(found, data, "file", False, print)
    lines: list[str] = []
    left = unlearned(found, data, "file", True, lines.append)
    assert len(left) == 50 - len(expected) and len(learned_from(found, left)) == 0
    assert lines == [
        f"file: left out {len(expected)} of 50 queries that mine ({found.registered.version}) learned from"
    ]
    assert unlearned(open_router(registry, "random"), data, "file", False, print) is data


def test_case_space_and_punctuation_do_not_make_a_new_query(tmp_path: Path) -> None:
    save_fingerprints(tmp_path, queries("What is 3 + 4?", "add 1"))
    seen = load_fingerprints(tmp_path)
    assert seen is not None
    assert known_rows(seen, queries("what is  3 + 4", "what is 3 - 4?", "ADD 1.")).tolist() == [0, 2]


def test_hashes_add_up_and_broken_files_are_named(tmp_path: Path) -> None:
    assert load_fingerprints(tmp_path) is None
    save_fingerprints(tmp_path, queries("a"))
    save_fingerprints(tmp_path, queries("b", "\ud800"), load_fingerprints(tmp_path))
    seen = load_fingerprints(tmp_path)
    assert seen is not None and len(seen) == 3
    (tmp_path / FINGERPRINTS).write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=FINGERPRINTS):
        load_fingerprints(tmp_path)
