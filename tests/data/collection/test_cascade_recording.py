"""Recording answers for cascades: from pools that answer with log-probabilities, and from the lab's own models."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import orjson
import pytest

from serve_app.data.collection.cascade_recording import Means, RecordPlan, record, write_rows
from serve_app.data.collection.journal import AnswerJournal
from serve_app.data.collection.lab import LabPlan, even, lab_rows, regraded
from serve_app.data.collection.plan import Asked, How, asked_of
from serve_app.data.dataset import Dataset
from serve_app.data.recorded import read
from serve_app.errors import ConfigError, ContextLengthExceeded, DataError
from serve_app.lab import models_dir
from serve_app.lab.tasks.base import grade as exact
from serve_app.pools.base import Pool, PoolLoad
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


ASKED = [Asked(Query((Message("user", f"say {w}"),)), f"id-{w}", "g", w if w != "c" else "other") for w in "abc"]


def means(folder: Path) -> Means:
    def journal(name: str, asked: Sequence[Asked], pools: Mapping[str, Pool], how: How) -> AnswerJournal:
        return AnswerJournal(folder / f"{name}.journal", asked_of(asked, pools, how))

    async def grade(dataset: Dataset) -> Dataset:
        return regraded(dataset, exact, "exact")

    return Means(journal, grade)


def plan(**more: int) -> RecordPlan:
    return RecordPlan(How(Sampling(temperature=0.0), concurrency=2), split="train", **more)


async def test_answers_come_graded_with_their_tokens(tmp_path: Path) -> None:
    pools = {"small": SurePool("small"), "large": SurePool("large", logprobs=False)}
    rows = await record(ASKED, pools, plan(samples=2, verdicts=3), means(tmp_path))
    write_rows(rows, tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert found.models == ("small", "large") and found.served == ("m-small", "m-large")
    assert found.ok.tolist() == [[1, 1], [1, 1], [0, 0]] and set(found.splits) == {"train"}
    small, large = found.judged[0]
    assert small.logprobs[0].token == "a" and small.logprobs[0].top[1] == ("no", -2.0)
    assert small.samples == ("a", "a") and small.verdicts == (1.0, 1.0, 1.0)
    assert large.logprobs == () and large.samples == () and large.verdicts == ()
    assert found.cost_usd[0, 0] == pytest.approx(12e-6)
    assert found.extra_cost_usd[0].tolist() == pytest.approx([(10 + 4 + 10 + 6) * 1e-6, 0.0])
    assert {q.sampling.logprobs for q in pools["large"].queries} == {False}
    assert pools["small"].queries[0].sampling.top_logprobs == 5


async def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    first = {"small": SurePool("small"), "large": SurePool("large")}
    rows = await record(ASKED, first, plan(samples=2, verdicts=2), means(tmp_path))
    again = {"small": SurePool("small"), "large": SurePool("large")}
    assert await record(ASKED, again, plan(samples=2, verdicts=2), means(tmp_path)) == rows
    assert again["small"].queries == again["large"].queries == []


async def test_a_query_that_a_pool_refuses_is_left_out(tmp_path: Path) -> None:
    pools = {"small": SurePool("small", refuses="say b"), "large": SurePool("large")}
    rows = await record(ASKED, pools, plan(samples=1), means(tmp_path))
    assert [row["i"] for row in rows] == ["id-a", "id-c"]


async def test_when_no_query_is_answered_by_all(tmp_path: Path) -> None:
    pools = {"small": SurePool("small", refuses="say a"), "large": SurePool("large", refuses="say")}
    with pytest.raises(DataError, match="no query"):
        await record(ASKED, pools, plan(), means(tmp_path))


def test_one_answer_a_query() -> None:
    with pytest.raises(ConfigError, match="3 answers"):
        RecordPlan(How(Sampling(n=3)))


def test_rows_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_rows([], tmp_path / "file" / "x.jsonl")


def test_the_labs_models_answer_in_batches(tmp_path: Path) -> None:
    lab = LabPlan(60, "measure", seed=1, models=("tiny", "small"), samples=2)
    rows = lab_rows(models_dir(), lab, lambda _: None)
    write_rows(rows, tmp_path / "lab.jsonl")
    found = read(tmp_path / "lab.jsonl")
    assert len(found) == 60 and found.served == ("jlab-tiny", "jlab-small")
    assert found.ok[:, 1].mean() > found.ok[:, 0].mean()
    for row, (tiny, small) in zip(rows, found.judged, strict=True):
        assert "".join(token.token for token in small.logprobs) == small.text
        assert all(token.logprob == max(p for _, p in token.top) for token in small.logprobs), "greedy"
        assert len(tiny.samples) == 2 and small.samples == ()
        assert row["m"]["small"]["ok"] == float(small.text.strip() == row["reference"])
        assert row["m"]["small"]["tout"] == len(small.logprobs) + 1
    assert found.extra_cost_usd[:, 0].min() > 0 == found.extra_cost_usd[:, 1].max()


def test_queries_that_a_router_learned_from_are_left_out() -> None:
    known = frozenset(item.prompt for item in even(LabPlan(300, "learn", seed=0)))
    left = even(LabPlan(300, "learn", seed=0, without=known))
    assert len(left) > 200 and not known & {item.prompt for item in left}
