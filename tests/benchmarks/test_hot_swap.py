import sqlite3
from pathlib import Path

import pytest

from benchmarks.hot_swap import NAME, Seen, broken_version, figures, passed, table, two_versions
from benchmarks.stamp import environment
from serve_app.errors import ConfigError
from serve_app.routing.registry import Registry


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "log.sqlite3"
    with sqlite3.connect(path) as log:
        log.execute("CREATE TABLE decisions (decision_id TEXT, policy_version TEXT)")
        log.executemany("INSERT INTO decisions VALUES (?, ?)", [("1", "a@0.5"), ("2", "b@0.5"), ("3", "b@0.5")])
    return path


def found(store: Path, swapping: Seen) -> dict[str, object]:
    told = {"steady": Seen([0.1], {"1": "a@0.5"}), "swapping": swapping, "swaps": 2, "refusals": 1}
    return figures(told, ["a", "b"], store)


def test_all_is_well(store: Path) -> None:
    result = found(store, Seen([0.1, 0.2], {"1": "a@0.5", "2": "b@0.5"}))
    assert passed(result) and result["requests"] == 3 and result["decisions_by_version"] == {"a": 1, "b": 1}
    assert "latency p99, swapping, ms" in table({**result, "environment": environment()})


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (Seen([0.1], {"1": "a@0.5", "2": "b@0.5"}, ["503: full"]), "failed"),
        (Seen([0.1], {"1": "a@0.5", "2": "b@0.5", "3": "c@0.5"}), "decisions_of_unknown_version"),
        (Seen([0.1], {"1": "a@0.5", "9": "b@0.5"}), "decisions_not_logged"),
        (Seen([0.1], {"1": "b@0.5", "2": "a@0.5"}), "decisions_logged_otherwise"),
    ],
)
def test_each_loss_is_seen(store: Path, seen: Seen, wrong: str) -> None:
    result = found(store, seen)
    assert result[wrong] and not passed(result)


def test_one_version_alone_proves_nothing(store: Path) -> None:
    assert not passed(found(store, Seen([0.1], {"1": "a@0.5"})))


def test_two_versions_differ_and_the_third_is_broken(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    versions = two_versions(registry)
    assert len(set(versions)) == 2 and registry.current(NAME) == versions[0]
    registry.use(NAME, broken_version(registry, versions[0]))
    with pytest.raises(ConfigError, match=r"router\.json: cannot be read"):
        registry.load(NAME)
