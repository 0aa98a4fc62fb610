"""The lab's ranker and fuser, trained for a moment on answers of the members that ship."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.data.dataset import Dataset
from serve_app.ensemble.artefact import load_plan
from serve_app.ensemble.fusing.gen_fuser import GenFuser
from serve_app.ensemble.ranking.pair_ranker import load_ranker
from serve_app.lab import models_dir
from serve_app.lab.sample import split_of
from serve_app.training.lab_ensemble import (
    ANSWERS,
    FUSER,
    MEMBERS,
    PARTS,
    RANKER,
    LabEnsembleRecipe,
    practice_rows,
    train,
)

pytestmark = pytest.mark.slow
RECIPE = LabEnsembleRecipe(n=200, epochs=1, fuser_epochs=1, practice=100)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab-ensemble")
    train(models_dir(), folder, RECIPE, lambda line: None)
    return folder


def test_what_is_written_can_be_served(out: Path) -> None:
    ranker, fuser = load_ranker(out / RANKER), GenFuser.load(out / FUSER)
    assert ranker.scores("1 + 1", ["2", "3"]).shape == (2,)
    assert fuser.fuse(["1 + 1"], [["2", "3"]])[0].text
    assert {path.name for path in out.iterdir()} == {ANSWERS, RANKER, FUSER, "plan.json"}
    plan = load_plan(out)
    assert [member.pool for member in plan.members] == list(MEMBERS)
    assert (plan.select, plan.ranker, plan.fuser, plan.fuse_top) == ("ranker", RANKER, FUSER, 3)


def test_ranker_fuser_and_plan_have_texts_of_their_own(out: Path) -> None:
    answers = Dataset.load(out / ANSWERS)
    assert set(answers.splits) == set(PARTS) and set(answers.pools) == {*MEMBERS, "large"}
    of = [{q.text for q, s in zip(answers.queries, answers.splits, strict=True) if s == part} for part in set(PARTS)]
    assert all(not a & b for k, a in enumerate(of) for b in of[k + 1 :])


def test_a_run_goes_on_where_it_was(out: Path) -> None:
    before = load_ranker(out / RANKER).version
    train(models_dir(), out, replace(RECIPE, epochs=3), lambda line: None)
    assert load_ranker(out / RANKER).version == before


def test_answers_that_were_recorded_before_a_kill_are_not_asked_for_again(tmp_path: Path) -> None:
    lines: list[str] = []

    def killed_at_the_last(line: str) -> None:
        lines.append(line)
        if line.startswith("large:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(models_dir(), tmp_path, RECIPE, killed_at_the_last)
    assert not (tmp_path / ANSWERS).exists()
    lines.clear()
    with pytest.raises(KeyboardInterrupt):
        train(models_dir(), tmp_path, RECIPE, killed_at_the_last)
    assert lines and all(line.startswith("large:") for line in lines)


def test_a_fuser_practises_on_the_right_answer_among_others() -> None:
    rows = practice_rows(300, 0)
    assert all(row.reference in row.candidates and len(set(row.candidates)) == len(row.candidates) for row in rows)
    first = sum(row.candidates[0] == row.reference for row in rows) / len(rows)
    assert len(rows) > 250 and 0.8 < first < 0.98
    assert all(split_of(row.source) == "train" for row in rows)
