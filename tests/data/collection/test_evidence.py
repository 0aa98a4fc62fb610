"""Answers collected for cascades: log-probabilities, extra samples, verdicts, and the files that hold them."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from serve_app.data.collection.collect import collect
from serve_app.data.collection.plan import CollectionPlan, LabeledQuery
from serve_app.data.dataset import Dataset
from serve_app.data.recorded import Recorded, read, read_answers, write_answers
from serve_app.errors import ConfigError, ContextLengthExceeded, DataError
from serve_app.grading import get_metric
from serve_app.pools.base import PoolLoad
from serve_app.types import Capabilities, Message, Price, Query, Sampling
from serve_app.wire.frames import Answer, Call, Frame


class SurePool:
    """Says "yes" to verifications, otherwise the query's last word; refuses queries that it is told to."""

    price = Price(1.0, 2.0)

    def __init__(self, name: str, logprobs: bool = True, refuses: str = "") -> None:
        self.name, self.model = name, f"m-{name}"
        self.capabilities = Capabilities(logprobs=logprobs)
        self.queries: list[Query] = []
        self._refuses = refuses

    def load(self) -> PoolLoad:
        return PoolLoad(1, 0)

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        raise NotImplementedError("whole answers are asked for")

    async def complete(self, query: Query, call: Call) -> Answer:
        self.queries.append(query)
        if self._refuses and self._refuses in query.text:
            raise ContextLengthExceeded("too long")
        text = "yes" if query.messages[0].role == "system" else query.text.split()[-1]
        choice = {"message": {"content": text}}
        if query.sampling.logprobs:
            top = [{"token": text, "logprob": -0.25}, {"token": "no", "logprob": -2.0}]
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.25, "top_logprobs": top}]}
        choices = [{"index": i, **choice} for i in range(query.sampling.n)]
        usage = {"prompt_tokens": 10, "completion_tokens": query.sampling.n}
        return Answer(orjson.dumps({"choices": choices, "usage": usage}))

    async def aclose(self) -> None:
        return None


QUERIES = [
    LabeledQuery(Query((Message("user", f"say {w}"),)), f"id-{w}", "g", w if w != "c" else "other") for w in "abc"
]


def plan(samples: int = 0, verdicts: int = 0) -> CollectionPlan:
    sampling = Sampling(temperature=0.0, logprobs=True, top_logprobs=5)
    return CollectionPlan(sampling, concurrency=2, extra_samples=samples, verdicts=verdicts)


async def collected(pools: dict[str, SurePool], folder: Path, samples: int = 0, verdicts: int = 0) -> Dataset:
    found = await collect(QUERIES, pools, plan(samples, verdicts), journal=folder / "a.jsonl.journal")
    return await get_metric("exact").score(found)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
async def test_answers_are_read_back_with_their_evidence(tmp_path: Path, name: str) -> None:
    pools = {"small": SurePool("small"), "large": SurePool("large", logprobs=False)}
    dataset = await collected(pools, tmp_path, samples=2, verdicts=3)
    dataset = replace(dataset, splits=("train",) * 3, prior=np.array([0.25, np.nan, 1.0]))
    write_answers(dataset, tmp_path / name)
    again = read_answers(tmp_path / name)
    assert again.digest() == dataset.digest() and (again.ids, again.splits) == (dataset.ids, dataset.splits)
    found = read(tmp_path / name)
    assert found.digest() == Recorded.from_dataset(dataset).digest()
    assert found.models == ("small", "large") and found.served == ("m-small", "m-large")
    assert found.ok.tolist() == [[1, 1], [1, 1], [0, 0]] and set(found.splits) == {"train"}
    small, large = found.evidence[0]
    assert small.logprobs[0].token == "a" and small.logprobs[0].top[1] == ("no", -2.0)
    assert small.samples == ("a", "a") and small.verdicts == (1.0, 1.0, 1.0) and small.prior == 0.25
    assert large.logprobs == () and large.samples == () and large.verdicts == ()
    assert found.evidence[1][0].prior is None
    assert found.cost_usd[0, 0] == pytest.approx(12e-6)
    assert found.extra_cost_usd[0].tolist() == pytest.approx([(10 + 4 + 10 + 6) * 1e-6, 0.0])
    assert {q.sampling.logprobs for q in pools["large"].queries} == {False}
    assert pools["small"].queries[0].sampling.top_logprobs == 5
    assert dataset.about["spent_usd"] == pytest.approx(3 * (12 + 12 + 30) * 1e-6)


async def test_every_sample_has_its_log_probability(tmp_path: Path) -> None:
    pools = {"small": SurePool("small"), "large": SurePool("large", logprobs=False)}
    drawn = CollectionPlan(Sampling(temperature=0.7, n=3, logprobs=True), concurrency=2)
    found = await get_metric("exact").score(await collect(QUERIES, pools, drawn, journal=tmp_path / "j"))
    found.save(tmp_path / "out.parquet")
    again = Dataset.load(tmp_path / "out.parquet")
    assert again.pools["small"].mean_logprobs().tolist() == [[-0.25] * 3] * 3
    assert again.pools["large"].scores == {} and np.isnan(again.pools["large"].mean_logprobs()).all()
    alone = await collected({"small": SurePool("small")}, tmp_path)
    assert alone.pools["small"].scores == {} and alone.pools["small"].mean_logprobs().tolist() == [[-0.25]] * 3


def test_nothing_is_requested_twice(tmp_path: Path) -> None:
    first = {"small": SurePool("small"), "large": SurePool("large")}
    found = asyncio.run(collected(first, tmp_path, samples=2, verdicts=2))
    again = {"small": SurePool("small"), "large": SurePool("large")}
    assert asyncio.run(collected(again, tmp_path, samples=2, verdicts=2)).digest() == found.digest()
    assert again["small"].queries == again["large"].queries == []
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.jsonl.journal", "a.jsonl.small.samples.journal", "a.jsonl.small.verdicts.journal"}


async def test_a_query_that_a_pool_refuses_is_left_out(tmp_path: Path) -> None:
    pools = {"small": SurePool("small", refuses="say b"), "large": SurePool("large")}
    found = await collected(pools, tmp_path, samples=1)
    assert found.ids == ("id-a", "id-c") and found.weak.extra_samples == (("a",), ("c",))


async def test_when_no_query_is_answered_by_all(tmp_path: Path) -> None:
    pools = {"small": SurePool("small", refuses="say a"), "large": SurePool("large", refuses="say")}
    with pytest.raises(DataError, match="no query"):
        await collected(pools, tmp_path)


async def test_several_samples_are_evidence_at_their_cost_and_do_not_fit_json_lines(tmp_path: Path) -> None:
    pools = {"small": SurePool("small"), "large": SurePool("large")}
    several = CollectionPlan(Sampling(temperature=1.0, n=3))
    found = await get_metric("exact").score(await collect(QUERIES, pools, several))
    recorded = Recorded.from_dataset(found)
    assert recorded.evidence[0][0].samples == ("a", "a") and recorded.ok.shape == (3, 2)
    assert recorded.extra_cost_usd[0, 0] == pytest.approx(2 * recorded.cost_usd[0, 0])
    with pytest.raises(ConfigError, match=r"one answer a query, small has more"):
        write_answers(found, tmp_path / "a.jsonl")


async def test_cascades_need_graded_answers() -> None:
    found = await collect(QUERIES, {"small": SurePool("small")}, plan())
    with pytest.raises(DataError, match=r"row 0 \(id 'id-a'\): .*small is not scored"):
        Recorded.from_dataset(found)
    quality = np.array([[1.0], [7.0], [0.0]])
    with pytest.raises(DataError, match=r"row 1 \(id 'id-b'\): .*small is 7, outside"):
        Recorded.from_dataset(replace(found, pools={"small": replace(found.pools["small"], quality=quality)}))


def test_answers_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_answers(Dataset((), {}, ()), tmp_path / "file" / "x.jsonl")
