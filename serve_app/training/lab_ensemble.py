"""Trains the ranker and the fuser of the lab's ensemble on its members' own answers: ask, grade, train.

The queries are unseen by the models and of the half that is for learning (see `data.collection.lab`). They are split in
three, by their texts: the ranker learns from one part, the fuser from the second in the ranker's order, and the third
is for fitting a plan. On what it has learned from, a ranker is right more often than it will be. Both are made from
nothing: the ranker reads word pieces that it learned from its texts (over single characters its loss stayed at that of
guessing for an epoch), the fuser the lab's characters with their digits' places.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from shutil import rmtree

from serve_app.data.collection.lab import LabPlan, record_lab
from serve_app.data.dataset import Dataset
from serve_app.data.mixinstruct import candidates_of
from serve_app.ensemble.artefact import FittedPlan, save_plan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.ensemble.fusing.gen_fuser import FuserSize, new_fuser
from serve_app.ensemble.fusing.sequence import FusionForm
from serve_app.ensemble.fusing.training import FusionRecipe, FusionRow, rows_of, train_fuser
from serve_app.ensemble.ranking.network import NetworkShape
from serve_app.ensemble.ranking.pair_ranker import PairRanker, RewardModel, fit_ranker, load_ranker
from serve_app.ensemble.ranking.sequence import Lengths
from serve_app.ensemble.ranking.training import RankingRecipe
from serve_app.lab.model import build_tokenizer
from serve_app.lab.sample import sample
from serve_app.lab.tasks.other import ANSWER as NOT_A_TASK
from serve_app.learning.logistic import folds_of

MEMBERS = ("small", "numbers", "letters", "lists")
"""A weak model of all tasks, and three that know some of them well: none of them alone answers everything."""
RANKER, FUSER, ANSWERS = "ranker", "fuser", "answers.parquet"
"""What is written."""
PARTS = (*("ranker",) * 5, *("fuser",) * 4, "plan")
"""Which of ten folds is for what; the names are the splits of the recorded answers."""
_ENCODER = "scratch-4x128"
_OTHER_FOLDS = 1000
"""Added to the seed of the parts: with the same one, no row of the fuser's part would be held back in its training."""
_LENGTHS = Lengths(source=160, candidate=64)
_TOP = 3
_FIRST_SHARE = 0.85
"""How often the right answer is the first of the candidates that a fuser practises on, as a ranker would have it."""
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabEnsembleRecipe:
    """`n` queries drawn by `seed`; epochs of ranker and fuser at most; queries on which the fuser practises to copy."""

    n: int = 24_000
    seed: int = 0
    epochs: int = 8
    fuser_epochs: int = 12
    practice: int = 20_000


def train(models_dir: Path, out: Path, recipe: LabEnsembleRecipe, report: Report = print) -> None:
    """Write answers, ranker, fuser and their plan to `out`; a killed run resumes. Raises ConfigError, DataError."""
    dataset = _answered(models_dir, out / ANSWERS, recipe, report)
    ranker = _ranker(_part(dataset, RANKER), out / RANKER, recipe, report)
    _fuser(_part(dataset, FUSER), ranker, out / FUSER, recipe, report)
    blended = blended_plan(_part(dataset, "plan"))
    save_plan(FittedPlan(blended, data={"source": "lab", "n": recipe.n, "seed": recipe.seed}), out)


def blended_plan(dataset: Dataset) -> EnsemblePlan:
    """LLM-Blender's own plan: every member is called once, the answers are ranked, and the best three are fused.

    It is not fitted. Ties go to the member that is best on `dataset`. Its ranker and fuser are in the plan's folder.
    """
    alone = {f"quality:{name}": round(float(pool.quality.mean()), 4) for name, pool in dataset.pools.items()}
    plan = EnsemblePlan(
        rounds=(Round(tuple(MemberCalls(name) for name in MEMBERS)),),
        select="ranker",
        version="",
        normalizer="exact",
        ranker=RANKER,
        fuser=FUSER,
        fuse_top=_TOP,
        expected=alone,
        models={name: pool.model for name, pool in dataset.pools.items()},
    )
    return replace(plan, version=version_of(plan))


def _answered(models_dir: Path, path: Path, recipe: LabEnsembleRecipe, report: Report) -> Dataset:
    """Also those of `large`, the strong model of a plan; a model whose answers are there is not run again."""
    if path.exists():
        return Dataset.load(path)
    work = path.with_name("answers.recording")
    work.mkdir(parents=True, exist_ok=True)
    recorded = [
        _recorded(models_dir, work / f"{name}.parquet", LabPlan(recipe.n, "learn", recipe.seed, models=(name,)), report)
        for name in (*MEMBERS, "large")
    ]
    folds = folds_of([query.text for query in recorded[0].queries], len(PARTS), recipe.seed + _OTHER_FOLDS)
    dataset = replace(
        recorded[0],
        pools={name: pool for part in recorded for name, pool in part.pools.items()},
        splits=tuple(PARTS[fold] for fold in folds.tolist()),
        about={**recorded[0].about, "metric": "lab"},  # a fit grades fused answers by it
    )
    dataset.save(path)
    rmtree(work, ignore_errors=True)
    return dataset


def _recorded(models_dir: Path, path: Path, plan: LabPlan, report: Report) -> Dataset:
    if not path.exists():
        record_lab(models_dir, plan, report).save(path)
    return Dataset.load(path)


def _part(dataset: Dataset, split: str) -> Dataset:
    """The answers of the members to the queries of one split."""
    part = dataset.take([row for row, name in enumerate(dataset.splits) if name == split])
    return replace(part, pools={name: part.pools[name] for name in MEMBERS})


def _ranker(dataset: Dataset, folder: Path, recipe: LabEnsembleRecipe, report: Report) -> PairRanker | RewardModel:
    """A pair ranker (Jiang et al. 2023) whose last two layers read pairs, which a few thousand queries suffice for."""
    if folder.exists():
        return load_ranker(folder)
    work = folder.with_name(f"{folder.name}.training")
    how = RankingRecipe(epochs=recipe.epochs, learning_rate=5e-4, batch=32, pairs=4, encoder=_ENCODER, seed=recipe.seed)
    fit_ranker(candidates_of(dataset, ()), NetworkShape(lengths=_LENGTHS, joint_layers=2), how, report, work).save(
        folder
    )
    rmtree(work, ignore_errors=True)
    return load_ranker(folder)


def _fuser(
    dataset: Dataset, ranker: PairRanker | RewardModel, folder: Path, recipe: LabEnsembleRecipe, report: Report
) -> None:
    if folder.exists():
        return
    rows = practice_rows(recipe.practice, recipe.seed)
    rows += rows_of(dataset, candidates=_TOP, seed=recipe.seed, ranker=ranker)
    fuser = new_fuser(FuserSize(), build_tokenizer(), FusionForm.bare(_TOP), recipe.seed)
    work = folder.with_name(f"{folder.name}.training")
    how = FusionRecipe(recipe.fuser_epochs, 2e-3, 32, recipe.seed)
    fuser.save(folder, train_fuser(fuser, rows, how, report, work))
    rmtree(work, ignore_errors=True)


def practice_rows(n: int, seed: int) -> list[FusionRow]:
    """Rows of trained queries, for a fuser that is made from nothing and must first learn to copy.

    The candidates are the right answer, mostly the first, and answers to other queries of the task and size.
    """
    rng = Random(f"lab-practice-{seed}")
    items = sample(n, seed, "train")
    answers: dict[tuple[str, str], list[str]] = {}
    for item in items:
        answers.setdefault((item.task, item.size), []).append(item.answer)
    rows = []
    for item in items:
        others = {*rng.choices(answers[item.task, item.size], k=2), NOT_A_TASK} - {item.answer}
        candidates = rng.sample(sorted(others), k=min(len(others), rng.randint(1, _TOP - 1)))
        candidates.insert(0 if rng.random() < _FIRST_SHARE else rng.randint(0, len(candidates)), item.answer)
        rows.append(FusionRow(item.prompt, tuple(candidates), item.answer))
    return [row for row in rows if len(row.candidates) > 1]
