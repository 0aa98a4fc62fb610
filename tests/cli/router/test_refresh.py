"""`jethro router refresh`: on answers collected before, on callers' judgements, and what it refuses."""

import shutil
from pathlib import Path

import pytest

from serve_app.routing.registry import Registry
from serve_app.store.base import Feedback
from serve_app.training.training import TrainingRun, register, train
from tests.cli.conftest import Run
from tests.data.samples import sums
from tests.grading.test_feedback import log


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A registry and the version in it."""
    folder, learned = tmp_path_factory.mktemp("registry"), sums(250, seed=1)
    trained = train(TrainingRun("complexity", "old.parquet", folds=2), learned)
    return folder, register(trained, learned, Registry(folder), "mine")


@pytest.fixture
def served(registered: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The version that serves, in a copy of the registry of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(registered[0], "var/routers")
    return registered[1]


def test_collected_answers_are_learned_and_swapped_in(run: Run, served: str) -> None:
    sums(300, seed=2, flipped=True).save(Path("fresh.parquet"))
    done = run("router", "refresh", "mine", "--data", "fresh.parquet")
    assert done.exit_code == 0, done.stderr
    assert f"against {served} on" in done.stdout and "mine serves it" in done.stdout
    assert Registry(Path("var/routers")).current("mine") != served


def test_the_operator_may_keep_the_old_one(run: Run, served: str) -> None:
    sums(300, seed=2).save(Path("fresh.parquet"))
    done = run("router", "refresh", "mine", "--data", "fresh.parquet", "--no-swap")
    assert done.exit_code == 0 and "jethro router use" in done.stdout
    registry = Registry(Path("var/routers"))
    assert registry.current("mine") == served and len(registry.versions("mine")) == 2


def test_judgements_of_callers_are_data_too(run: Run, served: str) -> None:
    fresh = sums(300, seed=2, flipped=True)
    texts = list(dict.fromkeys(q.text for q in fresh.queries))
    quality = {q.text: fresh.weak.quality[i, 0] for i, q in enumerate(fresh.queries)}
    decisions = [(f"{pool[0]}{i}", pool, text) for i, text in enumerate(texts) for pool in ("small", "large")]
    judged = [Feedback(id_, quality[text] if pool == "small" else 1.0) for id_, pool, text in decisions]
    log(Path("log.sqlite3"), decisions, judged)
    done = run("router", "refresh", "mine", "--log", "log.sqlite3", "--feedback")
    assert done.exit_code == 0, done.stderr
    assert f"{2 * len(texts):,} scores and 0 preferences" in done.stdout and "mine serves it" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine",), "give --log FILE, or --data FILE"),
        (("mine", "--log", "a", "--data", "b"), "give --log FILE, or --data FILE"),
        (("mine", "--data", "b", "--feedback"), "--feedback is read from a decision log"),
        (("mine", "--log", "log.sqlite3"), "give --metric"),
        (("other", "--data", "b"), "no router 'other'"),
        (("mine", "--data", "none.parquet"), "none.parquet"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, served: str, arguments: tuple[str, ...], message: str) -> None:
    done = run("router", "refresh", *arguments)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
