"""Which way of picking the answer a fit chooses, and what it says of the others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.ensemble.artefact import FittedPlan
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.models import FitModels
from serve_app.ensemble.fitting.plan import EnsembleFit, fit_plan, picking_of
from serve_app.ensemble.fitting.search import EnsembleOptions
from serve_app.ensemble.fitting.shapes import replay, strengths_of
from serve_app.ensemble.fitting.worth import NotWorthIt
from serve_app.errors import ConfigError
from tests.ensemble.fitting.answered import drawn
from tests.ensemble.fitting.ways import Finding, Knowing, RandomPick, four_characters, with_logprobs

COST = {"a": 1e-5, "b": 1e-5, "c": 1e-5, "large": 1e-3}
HALF = {"a": 0.6, "b": 0.55, "c": 0.5, "large": 0.9}
CHEAP = Goal(budget_usd=4.5e-5)
"""The strong member is out of reach."""


def cheap(seed: int = 0, k: int = 1, n: int = 500) -> Dataset:
    return four_characters(drawn(n, HALF, seed, k), COST)


def tried(fitted: FittedPlan) -> dict[str, dict[str, Any]]:
    return {one["picks"]: one for one in fitted.data["tried"]}


def chosen(fitted: FittedPlan) -> list[str]:
    return [name for name, one in tried(fitted).items() if one.get("chosen")]


def measured(fitted: FittedPlan, test: Dataset, models: FitModels) -> float:
    """Quality on other answers."""
    answers = Answers.of(test, form=fitted.plan.normalizer)
    picking = picking_of(test, answers, strengths_of(fitted.plan), models, samples=4)
    return float(replay(fitted.plan, answers, "large", picking).quality.mean())


def test_a_ranker_that_knows_is_chosen_over_the_vote() -> None:
    ranker = Knowing(0.95)
    models = FitModels(ranker=ranker, ranker_name="rankers/mine")
    fitted = fit_plan(cheap(), CHEAP, models=models)
    plan = fitted.plan
    assert (plan.select, plan.ranker, plan.fuser, plan.fuse_top) == ("ranker", "rankers/mine", None, 0)
    assert chosen(fitted) == ["ranker"] and fitted.data["ranker"] == ranker.version
    by_vote = tried(fitted)["vote"]
    assert plan.expected["quality"] == tried(fitted)["ranker"]["quality"] > by_vote["quality"] + 0.05
    assert measured(fitted, cheap(1), models) == pytest.approx(plan.expected["quality"], abs=0.06)


def test_a_ranker_that_guesses_is_not() -> None:
    fitted = fit_plan(cheap(), Goal(strong_share=0.4), models=FitModels(ranker=Knowing(0.5), ranker_name="r"))
    assert fitted.plan.select == "vote" and fitted.plan.ranker is None and chosen(fitted) == ["vote"]
    found = tried(fitted)
    assert found["ranker"]["quality"] < found["vote"]["quality"]
    assert found["fuser"]["why_not"] == "no --fuser was given" and "log-prob" in found["logprob"]["why_not"]


def test_all_rows_are_ranked_once_in_shared_batches() -> None:
    ranker = Knowing(0.95)
    fitting = EnsembleFit(cheap(n=300), EnsembleOptions(), models=FitModels(ranker=ranker, ranker_name="r"))
    fitting.plan(CHEAP)
    fitting.plan(Goal(strong_share=0.3))
    distinct = sum(
        len({one.candidate.text for one in fitting.answers.candidates(i, [MemberCalls(n) for n in COST])}) ** 2
        - len({one.candidate.text for one in fitting.answers.candidates(i, [MemberCalls(n) for n in COST])})
        for i in range(300)
    )
    assert ranker.pairs == distinct // 2 and ranker.batches == 3


def test_log_probabilities_that_tell_are_chosen_for_best_of_n() -> None:
    options = EnsembleOptions(members=("a", "large"), samples=4)
    fitted = fit_plan(with_logprobs(cheap(k=4), 0.97), CHEAP, options)
    assert fitted.plan.select == "logprob" and chosen(fitted) == ["logprob"]
    assert fitted.plan.rounds[0].calls == (MemberCalls("a", 4),)
    assert measured(fitted, with_logprobs(cheap(1, 4), 0.97, 1), FitModels()) > 0.75
    assert tried(fitted)["logprob"]["quality"] > tried(fitted)["vote"]["quality"] + 0.05


def test_log_probabilities_that_mislead_are_not() -> None:
    fitted = fit_plan(with_logprobs(cheap(k=4), 0.4), Goal(strong_share=0.4), EnsembleOptions(samples=4))
    assert fitted.plan.select == "vote" and tried(fitted)["logprob"]["quality"] < tried(fitted)["vote"]["quality"]


def paraphrased() -> Dataset:
    """Two small models whose answers are worth little where they differ, and then the strong one's is near a's."""
    rng = np.random.default_rng(0)
    n = 400
    agree = rng.random(n) < 0.6
    data = four_characters({name: np.ones((n, 1), dtype=np.bool_) for name in ("a", "b", "large")}, COST)
    words = [f"w{i} the river runs down from the hill past old mills" for i in range(n)]
    texts = {
        "a": [(f"{w} slowly",) for w in words],
        "b": [(f"{w} slowly" if same else f"something else entirely is said here w{i}",)
              for i, (w, same) in enumerate(zip(words, agree, strict=True))],
        "large": [(f"{w} swiftly",) for w in words],
    }  # fmt: skip
    good = {"a": np.where(agree, 0.9, 0.2), "b": np.where(agree, 0.9, 0.1), "large": np.full(n, 0.95)}
    pools = {
        name: replace(pool, texts=tuple(texts[name]), quality=good[name][:, None]) for name, pool in data.pools.items()
    }
    return replace(data, pools=pools)


def test_the_last_answer_is_chosen_where_the_vote_would_take_a_worse_paraphrase() -> None:
    fitted = fit_plan(paraphrased(), Goal(strong_share=0.45), EnsembleOptions(form="text"))
    assert fitted.plan.select == "last" and chosen(fitted) == ["last"]
    assert [call.name for call in fitted.plan.rounds[-1].calls] == ["large"] and len(fitted.plan.rounds) == 2
    assert tried(fitted)["last"]["quality"] > tried(fitted)["vote"]["quality"] + 0.05
    assert fitted.plan.expected["quality"] == pytest.approx(0.92, abs=0.02)


def test_the_last_answer_is_not_chosen_where_all_together_know_more() -> None:
    even = four_characters(drawn(500, {"a": 0.75, "b": 0.75, "c": 0.75, "large": 0.78}), COST)
    fitted = fit_plan(even, Goal(strong_share=0.6))
    assert fitted.plan.select == "vote"
    assert tried(fitted)["last"]["quality"] < tried(fitted)["vote"]["quality"]


def test_a_fuser_that_finds_the_right_candidate_is_chosen_and_the_mix_pays() -> None:
    models = FitModels(fuser=Finding(0.98), fuser_name="fusers/mine")
    same = {name: np.repeat(right, 3, axis=1) for name, right in drawn(500, HALF, 5).items()}  # a model errs again
    fitted = fit_plan(four_characters(same, COST), CHEAP, EnsembleOptions(samples=3), models=models)
    plan = fitted.plan
    assert (plan.fuser, plan.fuse_top) == ("fusers/mine", 3) and chosen(fitted) == ["vote, the best 3 fused"]
    assert len({call.pool for call in plan.members}) > 1 and fitted.data["sets"].endswith("the mix")
    assert plan.expected["quality"] > tried(fitted)["vote"]["quality"] + 0.05
    assert measured(fitted, cheap(1), models) > 0.8


def test_a_fuser_of_no_skill_is_not_and_samples_of_the_best_model_are_better_for_it() -> None:
    models = FitModels(fuser=RandomPick(), fuser_name="f", fuse_top=2)
    right = drawn(400, {"a": 0.8, "b": 0.4, "large": 0.9}, 1, 2)
    fitted = fit_plan(four_characters(right, COST), Goal(strong_share=0.3), EnsembleOptions(samples=2), models=models)
    assert fitted.plan.fuser is None and fitted.plan.fuse_top == 0 and fitted.plan.select == "vote"
    assert fitted.data["sets"].startswith("a x2 or a + b: ") and fitted.data["sets"].endswith("one model's samples")
    assert fitted.data["fuser"] == RandomPick.version


def test_a_fused_set_is_fused_once() -> None:
    fuser = Finding(0.98)
    fitting = EnsembleFit(cheap(n=300), EnsembleOptions(), models=FitModels(fuser=fuser, fuser_name="f"))
    fitting.plan(CHEAP)
    before = fuser.calls
    fitting.plan(Goal(budget_usd=5e-5))
    assert before > 0 and fuser.calls == before


def test_what_cannot_be_graded_is_refused() -> None:
    models = FitModels(fuser=Finding(1.0), fuser_name="f")
    data = cheap()
    with pytest.raises(ConfigError, match="scored by 'judge', which cannot grade a fused answer"):
        fit_plan(replace(data, about={"metric": "judge"}), CHEAP, models=models)
    with pytest.raises(ConfigError, match="give each query its reference"):
        fit_plan(replace(data, references=()), CHEAP, models=models)


def test_a_way_that_a_single_model_beats_is_refused_too() -> None:
    right = drawn(400, {"a": 0.3, "b": 0.3, "good": 0.95})
    data = four_characters(right, {"a": 1e-4, "b": 1e-4, "good": 1e-4})
    with pytest.raises(NotWorthIt, match="Use good"):
        fit_plan(data, Goal(budget_usd=3e-4), models=FitModels(ranker=Knowing(0.5), ranker_name="r"))
