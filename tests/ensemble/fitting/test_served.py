"""A fitted plan in service gives the answers that the fit predicted, whichever way it picks them."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import LOGPROB, Dataset
from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.artefact import agreement_of, load_plan, save_plan
from serve_app.ensemble.base import Fused
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.models import FitModels
from serve_app.ensemble.fitting.plan import fit_plan, picking_of
from serve_app.ensemble.fitting.search import EnsembleOptions
from serve_app.ensemble.fitting.shapes import replayed, strengths_of
from serve_app.ensemble.serving.strategy import Ensemble
from serve_app.grading.normalizers import normalizer
from serve_app.types import Chunk, Query, TokenLogprob, Usage
from tests.cascade.fakes import engine_of, pool, query, run, told
from tests.ensemble.fitting.answered import drawn
from tests.ensemble.fitting.test_likes import two_topics
from tests.ensemble.fitting.test_ways import CHEAP, COST, HALF, cheap, paraphrased
from tests.ensemble.fitting.ways import Finding, Knowing, four_characters, with_logprobs

EVEN = {"a": 0.75, "b": 0.75, "c": 0.75, "large": 0.92}
RANKER, FUSER = (
    FitModels(ranker=Knowing(0.95, bonus=0.3), ranker_name="r"),
    FitModels(fuser=Finding(0.98), fuser_name="f"),
)


def recorded_pool(data: Dataset, name: str) -> LocalPool:
    """A pool that answers as recorded."""
    answers, at = data.pools[name], {q.text: row for row, q in enumerate(data.queries)}
    made = pool("", name)

    async def chunks(asked: Query) -> AsyncGenerator[Chunk, None]:
        row, n = at[asked.text], asked.sampling.n
        tokens = int(answers.completion_tokens[row, :n].sum())
        for index, text in enumerate(answers.texts[row][:n]):
            known = LOGPROB in answers.scores and asked.sampling.logprobs
            logprobs = (TokenLogprob(text, float(answers.scores[LOGPROB][row, index])),) if known else ()
            yield Chunk(index, text, logprobs=logprobs)
            usage = Usage(14, tokens) if index == n - 1 else None
            yield Chunk(index, finish_reason="stop", usage=usage)

    engine_of(made)._chunks = chunks  # type: ignore[method-assign,assignment]
    return made


@pytest.mark.parametrize(
    ("select", "train", "test", "goal", "options", "models"),
    [
        ("vote", four_characters(drawn(400, EVEN), COST), four_characters(drawn(400, EVEN, 1), COST),
         Goal(strong_share=0.4), EnsembleOptions(), FitModels()),
        ("logprob", with_logprobs(cheap(k=4), 0.97), with_logprobs(cheap(1, 4), 0.97, 1), CHEAP,
         EnsembleOptions(members=("a", "large"), samples=4), FitModels()),
        ("last", paraphrased(), paraphrased(), Goal(strong_share=0.45), EnsembleOptions(form="text"), FitModels()),
        ("ranker", cheap(), cheap(1), CHEAP, EnsembleOptions(), RANKER),
        ("fused", four_characters(drawn(500, HALF, 3), COST), cheap(1), CHEAP, EnsembleOptions(), FUSER),
    ],
)  # fmt: skip
async def test_served_answers_are_those_predicted(
    tmp_path: Path,
    select: str,
    train: Dataset,
    test: Dataset,
    goal: Goal,
    options: EnsembleOptions,
    models: FitModels,
) -> None:
    fitted = await _in_thread(train, goal, options, models)
    assert (fitted.plan.select if not fitted.plan.fuse_top else "fused") == select
    save_plan(fitted, tmp_path)
    plan = load_plan(tmp_path)
    assert plan == fitted.plan
    outcome, expected = await _predicted(plan, test, models)
    served = _served(plan, test, models)
    rows = range(0, len(test), 5)
    said, calls = [], []
    for row in rows:
        decision, text, spent = told(await run(served, query(test.queries[row].text)))
        said.append(text)
        calls.append(any(step.pool == "large" for step in spent.steps))
        assert decision.policy_version == plan.version
    assert said == [expected[row] for row in rows]
    assert calls == outcome.strong[::5].tolist(), "the strong member is called where the fit said"
    right = [text == test.references[row] for text, row in zip(said, rows, strict=True)]
    if select != "last":  # which has answers of graded quality
        assert np.mean(right) == pytest.approx(outcome.quality[::5].mean())
        assert outcome.quality.mean() == pytest.approx(plan.expected["quality"], abs=0.06)


async def test_a_plan_that_stops_by_expected_gain_calls_the_strong_member_where_the_fit_said(tmp_path: Path) -> None:
    (train, _), (test, _) = two_topics(0), two_topics(1)
    fitted = await _in_thread(train, Goal(strong_share=0.5), EnsembleOptions(), FitModels())
    save_plan(fitted, tmp_path)
    plan = load_plan(tmp_path)
    model = agreement_of(plan)
    assert model is not None and model.stops == "gain"
    outcome, expected = await _predicted(plan, test, FitModels())
    served = _served(plan, test, FitModels())
    texts = [one.text for one in test.queries]
    rows = [row for row in range(0, len(test), 5) if texts.count(texts[row]) == 1]
    for row in rows:
        _, text, spent = told(await run(served, query(texts[row])))
        assert text == expected[row]
        assert any(step.pool == "large" for step in spent.steps) == outcome.strong[row]
    assert 0.3 < outcome.strong[rows].mean() < 0.7


async def _in_thread(train, goal, options, models):  # type: ignore[no-untyped-def]
    import asyncio

    return await asyncio.to_thread(fit_plan, train, goal, options, models=models)


async def _predicted(plan, test, models):  # type: ignore[no-untyped-def]
    import asyncio

    answers = Answers.of(test, form=plan.normalizer)
    picking = picking_of(test, answers, strengths_of(plan), models, samples=4)
    return await asyncio.to_thread(replayed, plan, answers, "large", picking)


def _served(plan, data: Dataset, models: FitModels) -> Ensemble:  # type: ignore[no-untyped-def]
    async def rank(source: str, texts: Sequence[str], models_of: Sequence[str]) -> list[float]:
        assert models.ranker is not None
        return models.ranker.informed(models.ranker.scores(source, texts), models_of).tolist()

    async def fuse(source: str, texts: Sequence[str]) -> Fused:
        assert models.fuser is not None
        return models.fuser.fuse([source], [texts])[0]

    return Ensemble(
        "ensemble",
        plan,
        {name: recorded_pool(data, name) for name in data.pools},
        normalizer(plan.normalizer),
        agreement=agreement_of(plan),
        rank=rank if plan.select == "ranker" else None,
        fuse=fuse if plan.fuser is not None else None,
    )
