"""The lines that say what comes next: the whole journey is run by them alone, and nothing is fitted on a test file."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.cli.start.next_step import command, measures
from tests.cli.journey import Journey
from tests.cli.model_doubles import ModelDoubles, answering, config, prompts, write_config, write_prompts
from tests.data.samples import sums

COLLECT = ("--temperature", "0", "-n", "1")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journey]:
    monkeypatch.chdir(tmp_path)
    with answering(ModelDoubles()) as doubles:
        write_config(tmp_path / "my own.yaml", config(doubles, tmp_path / "my routers"))
        write_prompts(tmp_path / "mine.jsonl", prompts(250, seed=1))
        yield Journey(tmp_path, doubles)


def next_of(text: str) -> list[str]:
    """The words after `jethro` of the last command that an output names."""
    found = re.findall(r"(?:next|to serve it): jethro (.*)$", text, re.MULTILINE)
    assert found, text
    return shlex.split(found[-1])


def test_the_way_to_a_router_is_walked_by_the_hints(begun):
    collect = ("data", "collect", "--prompts", "mine.jsonl", "--config", "my own.yaml", *COLLECT, "--out", "a.parquet")
    score = next_of(begun.done(*collect).stdout)
    assert score == ["data", "score", "a.parquet", "--metric", "number"], "every right answer is a number"
    begun.done(*score)
    begun.done("data", "collect", "--metric", "number", *collect[2:-1], "b.parquet")
    split = next_of(begun.done("data", "collect", "--metric", "number", *collect[2:-1], "c.parquet").stdout)
    assert split == ["data", "split", "c.parquet"]
    compare = next_of(begun.done(*split).stdout)
    assert compare == ["router", "compare", "--data", "c.train.parquet"]
    more = (
        "--kinds",
        "complexity",
        "--set",
        "complexity.model=logistic",
        "--seed",
        "3",
        "--target",
        "strong-share=0.5",
    )
    train = next_of(begun.done(*compare, *more).stdout)
    expected = ["--data", "c.train.parquet", "--seed", "3", "--set", "model=logistic", "--target", "strong-share=0.5"]
    assert train == ["router", "train", "complexity", *expected, "--test", "c.test.parquet"]
    result = begun.done(*train, "--name", "mine", "--no-use", "--folds", "2", "--registry", "my routers")
    fresh = begun.done(*train, "--name", "mine", "--no-use", "--folds", "2", "--registry", "my routers", "--seed", "4")
    use = next_of(fresh.stdout)
    assert use[:2] == ["router", "use"] and use[3:] == ["--registry", "my routers"], result.stdout
    begun.done(*use)
    assert begun.done("router", "list", "--registry", "my routers").stdout.count("mine") >= 1


def test_a_cascade_is_fitted_on_what_was_collected_for_it_alone(begun):
    given = ("--prompts", "mine.jsonl", "--config", "my own.yaml", "--chain", "small,large", "--metric", "number")
    rest = ("cascade", "collect", *given, "--router", "")
    fit = next_of(begun.done(*rest, "--split", "learn", "--out", "learn.jsonl").stdout)
    assert fit[:6] == ["cascade", "fit", "--data", "learn.jsonl", "--split", "learn"]
    assert ["--registry", str(begun.folder / "my routers")] == fit[8:10]
    measured = begun.done(*rest, "--split", "test", "--out", "test.jsonl").stdout
    assert "next:" not in measured, "there is no chain yet to measure"
    begun.done(*fit[:6], "--target", "quality-drop=0.1", *fit[8:])
    again = begun.done(*rest, "--split", "test", "--out", "again.jsonl").stdout
    assert next_of(again)[:5] == ["cascade", "evaluate", "var/cascades/mine", "--data", "again.jsonl"]


def test_judges_are_named_with_their_config(begun):
    write_prompts(begun.folder / "open.jsonl", [{"prompt": "What is 1 + 2?"}, {"prompt": "What is 3 + 4?"}])
    collect = ("data", "collect", "--prompts", "open.jsonl", "--config", "my own.yaml", *COLLECT, "--out", "o.parquet")
    score = next_of(begun.done(*collect).stdout)
    assert score == [
        *("data", "score", "o.parquet", "--metric", "judge"),
        *("--judge", "large", "--config", "my own.yaml"),
    ]


def test_commands_are_quoted_and_empty_options_left_out():
    assert (
        command("router", "use", "a@b", registry=Path("my routers")) == "jethro router use a@b --registry 'my routers'"
    )
    assert (
        command("x", yes=True, no=False, none=None, empty="", set_=["a=1", "b=2"])
        == "jethro x --yes --set a=1 --set b=2"
    )


@pytest.mark.parametrize(
    ("split", "half", "expected"), [("test", "", True), ("", "measure", True), ("train", "learn", False)]
)
def test_what_is_there_to_measure_on(split, half, expected):
    assert measures(sums(5, seed=0), split, half) is expected
