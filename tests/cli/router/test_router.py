"""`jethro router`: from data to a router that serves, through the commands alone."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import known_rows, text_hashes
from tests.cli.conftest import Run
from tests.data.samples import sums


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    train, test = sums(300, seed=1), sums(400, seed=2)
    test.save(folder / "overlapping.parquet")
    seen = set(known_rows(text_hashes(train.queries), test.queries).tolist())
    train.save(folder / "train.parquet")
    test.take([i for i in range(400) if i not in seen]).save(folder / "test.parquet")
    return folder


@pytest.fixture
def jethro(run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own beside the data."""
    monkeypatch.chdir(tmp_path)
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return run


def trained(jethro: Run, *more: str) -> str:
    result = jethro("router", "train", "complexity", "--data", "train.parquet", "--name", "mine", "--folds", "2", *more)
    assert result.exit_code == 0, result.stderr
    return next(line for line in result.stdout.splitlines() if line.startswith("var/routers")).split(":")[0]


def test_train_registers_serves_and_tells(jethro: Run) -> None:
    folder = Path(trained(jethro))
    assert folder.parent == Path("var/routers/mine")
    assert json.loads((folder / "card.json").read_text("utf-8"))["version"] == folder.name
    listed = json.loads(jethro("router", "list", "--json").stdout)
    mine = next(row for row in listed if row["name"] == "mine")
    assert mine["serves"] and mine["version"] == folder.name and mine["apgr"] > 0.7
    assert {"complexity", "random"} < {row["name"] for row in listed}
    shown = json.loads(jethro("router", "show", "mine").stdout)
    assert shown["serves"] and shown["run"]["folds"] == 2 and shown["kind"] == "complexity"


def test_a_router_of_a_shipped_kind_gets_a_name_of_its_own(jethro: Run) -> None:
    given = ("router", "train", "complexity", "--data", "train.parquet", "--folds", "2")
    result = jethro(*given)
    assert result.exit_code == 0, result.stderr
    assert "my_complexity serves this version: jethro serve --set routing.router=my_complexity" in result.stdout
    refused = jethro(*given, "--name", "complexity")
    assert refused.exit_code == 2 and "one name would stand for two: give another, as my_complexity" in refused.stderr


def test_the_list_marks_the_default_and_says_why(jethro: Run) -> None:
    def listed(*words: str) -> tuple[str, list[str]]:
        rows = json.loads(jethro("router", "list", "--json", *words).stdout)
        default = [row["name"] for row in rows if row["default"]]
        return jethro("router", "list", *words).stdout.splitlines()[-1], default

    Path("own.yaml").write_text(yaml.safe_dump(config_of("m-small", "m-large")), "utf-8")
    Path("lab.yaml").write_text(yaml.safe_dump(config_of("jlab-small", "jlab-large")), "utf-8")
    why, default = listed()
    assert default == [] and why.startswith(
        "default: none chosen; complexity serves jlab-small and jlab-large, random any"
    )
    why, default = listed("--config", "own.yaml")
    assert default == ["random"] and "none that ships knows m-small and m-large" in why
    why, default = listed("--config", "lab.yaml")
    assert default == ["complexity"] and "ships for jlab-small and jlab-large" in why
    trained(jethro)
    assert jethro("router", "use", "mine", "--as-default").exit_code == 0
    why, default = listed("--config", "own.yaml")
    assert default == ["mine"] and "--as-default" in why
    assert re.search(r"\| \* default +\| mine +\|", jethro("router", "list").stdout)
    assert re.search(r"\| jlab-small / jlab-large +\|", jethro("router", "list").stdout)


def config_of(*models: str) -> dict[str, Any]:
    engine = {"kind": "openai", "urls": ["http://127.0.0.1:9/v1"]}
    return {"pools": {name: {"model": m, "engine": engine} for name, m in zip(("small", "large"), models, strict=True)}}


def test_the_run_of_an_artefact_trains_the_same_version(jethro: Run) -> None:
    folder = Path(trained(jethro, "--seed", "3", "--target", "strong-share=0.4"))
    again = jethro("router", "train", "--run", str(folder / "run.json"), "--name", "again")
    assert again.exit_code == 0, again.stderr
    assert (Path("var/routers/again") / folder.name / "card.json").is_file()
    other = jethro("router", "train", "--run", str(folder / "run.json"), "--name", "again", "--seed", "4", "--no-use")
    assert len([f for f in Path("var/routers/again").iterdir() if f.is_dir()]) == 2
    assert "jethro router use again@complexity-" in other.stdout


def test_a_run_whose_data_changed_is_refused(jethro: Run) -> None:
    folder = Path(trained(jethro))
    body = json.loads((folder / "run.json").read_text("utf-8"))["run"]
    Path("run.json").write_text(json.dumps({**body, "data": "test.parquet"}), "utf-8")
    result = jethro("router", "train", "--run", "run.json")
    assert result.exit_code == 2 and "that run" in result.stderr


def test_evaluate_writes_report_and_plot_and_refuses_what_was_learned(jethro: Run) -> None:
    trained(jethro)
    result = jethro("router", "evaluate", "mine", "--data", "test.parquet", "--threshold", "0.2", "--out", "report")
    assert result.exit_code == 0, result.stderr
    assert "| APGR " in result.stdout and "| 0.2 " in result.stdout
    body = json.loads(Path("report/evaluation.json").read_text("utf-8"))
    assert body["router"] == "mine" and len(body["thresholds"]) == 2
    assert Path("report/evaluation.md").read_text("utf-8") in result.stdout
    assert Path("report/evaluation.png").stat().st_size > 5_000
    for data in ("train.parquet", "overlapping.parquet"):
        refused = jethro("router", "evaluate", "mine", "--data", data)
        assert refused.exit_code == 2 and "learned from: row " in refused.stderr
    some = jethro("router", "evaluate", "mine", "--data", "overlapping.parquet", "--skip-seen")
    assert some.exit_code == 0 and some.stdout.startswith("overlapping.parquet: left out ")


def test_calibrate_makes_a_version_and_use_serves_it(jethro: Run) -> None:
    first = Path(trained(jethro)).name
    result = jethro("router", "calibrate", "mine", "--data", "test.parquet", "--target", "strong-share=0.25")
    assert result.exit_code == 0, result.stderr
    version = Path(result.stdout.split(":")[0]).name
    assert version != first and f"jethro router use mine@{version}" in result.stdout
    used = jethro("router", "use", f"mine@{version}", "--as-default")
    assert used.stdout.startswith(f"mine serves {version} at threshold ") and "the default router" in used.stdout
    used = jethro("router", "use", f"mine@{first}", "--threshold", "0.125")
    assert used.stdout.startswith(f"mine serves {first} at threshold 0.125")
    rows = {row["version"]: row for row in json.loads(jethro("router", "list", "--json").stdout)}
    assert rows[first]["threshold"] == 0.125 and rows[first]["quality_drop"] is None and rows[first]["apgr"]
    assert rows[version]["target"] == "share <= 0.25" and rows[version]["strong_share"] <= 0.25


def test_calibrate_promises_or_says_what_it_would_take(jethro: Run) -> None:
    trained(jethro)
    target = ("--data", "test.parquet", "--guarantee", "ltt", "--target")
    promised = jethro("router", "calibrate", "mine", *target, "quality-drop=0.1")
    assert promised.exit_code == 0 and "drop <= 0.1 with confidence 0.9" in promised.stdout
    refused = jethro("router", "calibrate", "mine", *target, "quality-drop=0.001")
    assert refused.exit_code == 2 and "would take" in refused.stderr
    wrong = jethro("router", "calibrate", "mine", *target, "strong-share=0.5")
    assert wrong.exit_code == 2 and "for a quality drop" in wrong.stderr


def test_compare_recommends_and_goes_on_after_a_cut(jethro: Run) -> None:
    asked = ("router", "compare", "--data", "train.parquet", "--kinds", "complexity", "--folds", "2", "--out", "c")
    result = jethro(*asked)
    assert result.exit_code == 0, result.stderr
    assert "Recommended: complexity" in result.stdout
    assert json.loads(Path("c/comparison.json").read_text("utf-8"))["recommended"] == "complexity"
    assert Path("c/comparison.png").is_file() and Path("c/comparison.md").is_file()
    assert "fold 2 of 2: done before" in jethro(*asked).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "give KIND and --data FILE, or --run FILE"),
        (("train", "complexity"), "give KIND and --data FILE"),
        (("train", "nothing", "--data", "train.parquet"), "no router kind 'nothing': there are"),
        (("train", "complexity", "--data", "none.parquet"), "none.parquet: no such file"),
        (("train", "complexity", "--data", "train.parquet", "--set", "depth=3"), "no parameter 'depth'"),
        (("train", "complexity", "--data", "train.parquet", "--weak", "tiny"), "no pool 'tiny'"),
        (("train", "complexity", "--data", "train.parquet", "--target", "half"), "write strong-share=0.4"),
        (("train", "complexity", "--data", "train.parquet", "--test", "train.parquet"), "leak"),
        (("train", "complexity", "--run", "run.json"), "contradict each other"),
        (("evaluate", "none", "--data", "test.parquet"), "no router 'none'"),
        (("show", "random"), "random has no card"),
        (("show", "complexity@"), "write NAME@VERSION"),
        (("use", "complexity@none"), "no version 'none'"),
        (("compare", "--data", "train.parquet", "--kinds", "knn", "--set", "k=3"), "write KIND.KEY=VALUE"),
        (("calibrate", "random", "--data", "test.parquet", "--target", "strong-share=0.1"), "nothing to calibrate"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(jethro: Run, arguments: tuple[str, ...], message: str) -> None:
    result = jethro("router", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_data_that_teach_nothing_are_refused(jethro: Run, files: Path) -> None:
    data = Dataset.load(files / "train.parquet")
    hard = [i for i, w in enumerate(data.strong_win_rate()) if w == 1.0]
    data.take(hard).save(Path("hard.parquet"))
    result = jethro("router", "train", "complexity", "--data", "hard.parquet")
    assert result.exit_code == 2 and "one class alone" in result.stderr


def test_answers_of_other_models_are_noted(jethro: Run, files: Path) -> None:
    trained(jethro)
    data = Dataset.load(files / "test.parquet")
    other = replace(data, pools={**data.pools, "large": replace(data.strong, model="m-huge")})
    other.save(Path("other.parquet"))
    result = jethro("router", "evaluate", "mine", "--data", "other.parquet")
    assert "m-small and m-huge" in result.stdout


def test_a_registry_that_cannot_be_written_is_named(jethro: Run) -> None:
    Path("file").write_text("", "utf-8")
    result = jethro("router", "train", "complexity", "--data", "train.parquet", "--folds", "2", "--registry", "file/x")
    assert result.exit_code == 2 and "file/x:" in result.stderr
