"""Sampled lab answers: the lab's own tiny and small models, asked for real."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.hybrid_llm.edit_similarity import edit_similarity
from benchmarks.hybrid_llm.runs import regraded
from serve_app.data.collection.lab import LabPlan, record_lab, unseen_queries
from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.lab import models_dir

PLAN = LabPlan(80, "learn", seed=3, models=("tiny", "small"), samples=4, temperature=1.0)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def answered(lines: list[str]) -> Dataset:
    return record_lab(models_dir(), PLAN, lines.append)


def test_every_query_has_its_samples_graded(answered: Dataset, lines: list[str]) -> None:
    items = unseen_queries(80, PLAN.seed, "learn")
    assert [q.text for q in answered.queries] == [item.prompt for item in items]
    assert answered.references == tuple(item.answer for item in items)
    for name, pool in answered.pools.items():
        assert pool.model == f"jlab-{name}" and pool.quality.shape == (80, 4)
        for item, texts, grades in zip(items, pool.texts, pool.quality, strict=True):
            assert grades.tolist() == [float(text.strip() == item.answer) for text in texts]
    assert lines[-1].startswith("small: ") and "tiny: " in lines[0]


def test_samples_vary_and_the_better_model_is_better(answered: Dataset) -> None:
    tiny, small = answered.pools["tiny"], answered.pools["small"]
    assert any(len(set(texts)) > 1 for texts in tiny.texts)
    assert 0.1 < tiny.quality.mean() < small.quality.mean() < 0.9
    assert (tiny.cost_usd.mean() < small.cost_usd.mean()) and (tiny.cost_usd > 0).all()
    assert answered.pair("tiny", "small").weak.model == "jlab-tiny"


@pytest.mark.slow
def test_the_same_draw_gives_the_same_answers_and_repeated_queries_share_theirs(answered: Dataset) -> None:
    again = record_lab(models_dir(), replace(PLAN, models=("tiny",)), lambda line: None)
    assert again.pools["tiny"].texts == answered.pools["tiny"].texts
    other = record_lab(models_dir(), replace(PLAN, seed=4, models=("tiny",)), lambda line: None)
    assert other.pools["tiny"].texts != answered.pools["tiny"].texts
    seen: dict[str, tuple[str, ...]] = {}
    for query, texts in zip(answered.queries, answered.pools["tiny"].texts, strict=True):
        assert seen.setdefault(query.text, texts) == texts


def test_partial_credit_lies_between(answered: Dataset) -> None:
    partial = regraded(answered, edit_similarity, "edit_similarity")
    assert partial.about["metric"] == "edit_similarity"
    exact, credit = answered.pools["small"].quality, partial.pools["small"].quality
    assert (credit[exact == 1.0] == 1.0).all() and (credit[exact == 0.0] < 1.0).all()
    assert np.unique(credit).size > 3 and credit.min() >= 0.0


def test_partial_credit_needs_references(answered: Dataset) -> None:
    with pytest.raises(ConfigError, match="reference"):
        regraded(replace(answered, references=()), edit_similarity, "edit_similarity")


def test_a_model_that_is_not_there_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match="no model"):
        record_lab(tmp_path, replace(PLAN, n=2))


def test_plans_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 samples at temperature 0"):
        LabPlan(5, "learn", samples=3)
    with pytest.raises(ConfigError, match="at temperature 0 alone"):
        LabPlan(5, "learn", temperature=0.5, top_logprobs=5)


def test_greedy_answers_come_with_log_probabilities_and_extra_samples() -> None:
    plan = LabPlan(60, "measure", seed=1, models=("tiny", "small"), top_logprobs=5, extra_samples=2)
    found = record_lab(models_dir(), plan, lambda _: None)
    tiny, small = found.pools["tiny"], found.pools["small"]
    assert len(found) == 60 and set(found.splits) == {"measure"}
    assert small.quality.mean() > tiny.quality.mean() and small.extra_samples == ()
    for row, tokens in enumerate(small.logprobs):
        assert "".join(token.token for token in tokens) == small.texts[row][0]
        assert all(token.logprob == max(p for _, p in token.top) for token in tokens), "greedy"
        assert len(tiny.extra_samples[row]) == 2
        assert small.quality[row, 0] == float(small.texts[row][0].strip() == found.references[row])
        assert small.completion_tokens[row, 0] == len(tokens) + 1
    assert tiny.extra_cost_usd is not None and (tiny.extra_cost_usd > 0).all() and small.extra_cost_usd is None
