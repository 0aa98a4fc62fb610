import asyncio

from serve_app.cascade.base import Needs
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import (
    Overloaded,
    RequestError,
)
from serve_app.strategy import Context
from serve_app.types import Query
from serve_app.wire.frames import Answer, Call
from tests.cascade.fakes import (
    CALL,
    SURE,
    WEAK,
    Seen,
    engine,
    engine_of,
    pools,
    query,
    run,
    told,
)
from tests.cascade.serving.test_strategy import BOTH, cascade


@BOTH
async def test_samples_are_drawn_at_the_same_pool_and_counted(stream: bool) -> None:
    signal, both = Seen(needs=Needs(samples=3)), pools(SURE)
    decision, said, spent = told(await run(cascade(both, signal), query(temperature=0.0, seed=1), stream=stream))
    assert (decision.pool, said) == (WEAK, SURE)
    assert signal.shown[0].samples == (SURE,) * 3
    answer, more = engine_of(both[WEAK]).queries
    if answer.sampling.n == 3:
        answer, more = more, answer
    assert (answer.sampling.n, more.sampling.n, more.sampling.seed) == (1, 3, 2)
    assert answer.sampling.temperature == 0 and more.sampling.temperature > 0
    assert spent.usage.completion_tokens == 4 * len(SURE) and len(spent.steps) == 2


async def test_samples_that_fail_leave_the_answer() -> None:
    class NoSamples(LocalPool):
        async def complete(self, query: Query, call: Call) -> Answer:
            if query.sampling.n > 1:
                raise Overloaded("full")
            return await super().complete(query, call)

    signal = Seen(sure=0.9, needs=Needs(samples=2))
    both = pools(SURE) | {WEAK: NoSamples(WEAK, engine(SURE))}
    decision, said, spent = told(await run(cascade(both, signal)))
    assert (decision.pool, said, signal.shown[0].samples) == (WEAK, SURE, ())
    assert [s.reason for s in spent.steps][1] == "sample failed: overloaded"


async def test_a_pool_that_takes_no_n_is_asked_as_often() -> None:
    class OneByOne(LocalPool):
        async def complete(self, query: Query, call: Call) -> Answer:
            if query.sampling.n > 1:
                raise RequestError("only one", param="n")
            return await super().complete(query, call)

    signal = Seen(needs=Needs(samples=2))
    both = pools(SURE) | {WEAK: OneByOne(WEAK, engine(SURE))}
    _, _, spent = told(await run(cascade(both, signal)))
    assert signal.shown[0].samples == (SURE, SURE)
    assert spent.usage.completion_tokens == 3 * len(SURE)


@BOTH
async def test_the_model_is_asked_to_verify_its_own_answer(stream: bool) -> None:
    signal, both = Seen(needs=Needs(verdicts=4)), pools()
    engine_of(both[WEAK]).script = lambda q, i: ["42"] if q.sampling.n == 1 else ["yes"] if i else ["no"]
    _, said, spent = told(await run(cascade(both, signal), stream=stream))
    assert said == "42" and signal.shown[0].verdicts == (0.0, 1.0, 1.0, 1.0)
    assert [s.reason for s in spent.steps][1] == "verdict0"
    assert "42" in engine_of(both[WEAK]).queries[1].text


@BOTH
async def test_the_routers_score_reaches_the_judge(stream: bool) -> None:
    async def prior(router: str, query: Query) -> float | None:
        return 0.3 if router == "mine" else None

    signal = Seen(needs=Needs(prior="mine"))
    decision, *_ = told(await run(cascade(pools(), signal, prior=prior), stream=stream))
    assert signal.shown[0].prior == 0.3 and decision.features["prior"] == 0.3


async def test_an_answer_that_is_cut_off_counts_though_its_samples_are_there() -> None:
    """A caller leaves while the answer is written and the samples beside it are done."""

    class QuickSamples(LocalPool):
        async def complete(self, query: Query, call: Call) -> Answer:
            answer = await LocalPool(WEAK, engine(SURE)).complete(query, call)
            drawn.set()
            return answer

    drawn = asyncio.Event()
    both = pools() | {WEAK: QuickSamples(WEAK, engine("y" * 100, delay_s=0.002))}
    context = Context(CALL, stream=True)
    asked = cascade(both, Seen(needs=Needs(samples=2))).run(query(), context)
    waiting = asyncio.ensure_future(anext(asked))
    await drawn.wait()
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.wait((waiting,))
    await asked.aclose()
    steps = context.ledger.standing()
    assert [step.reason for step in steps] == ["cut off", "sample"] and all(step.wasted for step in steps)
    assert 0 < steps[0].usage.completion_tokens < 100
