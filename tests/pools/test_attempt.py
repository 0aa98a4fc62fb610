"""What a caller is told when nobody answers, and who is asked after a prompt that is too long."""

import pytest

from serve_app.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    JethroError,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UpstreamError,
)
from serve_app.images import Image
from serve_app.pools.attempt import Attempt, most_relevant, refusal, unmet, why_skipped
from serve_app.types import Capabilities, Message, Query
from tests.cascade.fakes import CALL, pool, query

LATE, LONG, FULL, BAD = DeadlineExceeded("late"), ContextLengthExceeded("long"), Overloaded("full"), RequestError("bad")
NONE, DEAD = PoolUnavailable("none"), UpstreamError("dead")


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([(NONE, 8), (LATE, 64)], LATE),
        ([(DEAD, 8), (BAD, 64)], BAD),
        ([(FULL, 8), (DEAD, 64)], FULL),
        ([(LONG, 8), (NONE, 64)], NONE),
        ([(NONE, 8), (LONG, 64)], LONG),
        ([(NONE, 64), (LONG, 8)], NONE),
        ([(LONG, 8), (DEAD, 4), (FULL, 64)], FULL),
        ([(LONG, 8), (LONG, 64)], LONG),
    ],
)
def test_the_most_relevant_of_several_errors(failures: list[tuple[JethroError, int]], told: JethroError) -> None:
    assert most_relevant([(e, Capabilities(max_context_tokens=limit)) for e, limit in failures]) is told


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_too_long_reaches_a_larger_context_behind_one_that_is_no_larger(stream: bool) -> None:
    three = [pool("x", f"p{size}", capabilities=Capabilities(max_context_tokens=size)) for size in (16, 16, 4096)]
    attempt = Attempt(three, query("y" * 40), CALL)
    if stream:
        assert [frame async for frame in attempt.stream()]
    else:
        await attempt.complete()
    assert attempt.pool is three[2] and [s.failed for s in attempt.steps] == [True, True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_that_passed_is_told_of_whoever_failed_before(stream: bool) -> None:
    two = [pool("x", fail_after=0, error=NONE), pool("x", "large", fail_after=0, error=LATE)]
    attempt = Attempt(two, query(), CALL)
    with pytest.raises(DeadlineExceeded):
        if stream:
            [frame async for frame in attempt.stream()]
        else:
            await attempt.complete()


def seen(*urls):
    images = [Image(url, None, f"messages.0.content.{i}.image_url") for i, url in enumerate(urls)]
    return Query((Message.of("user", ["what?", *images]),))


URL, BYTES = "https://x.example/a.png", "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("urls", "can", "says"),
    [
        ((), Capabilities(), None),
        ((URL, BYTES), Capabilities(vision=True, image_urls=True), None),
        ((BYTES,), Capabilities(vision=True), None),
        ((BYTES,), Capabilities(), ("cannot see images", "messages.0.content.0.image_url: m cannot see images")),
        ((BYTES, URL), Capabilities(vision=True), ("fetches no images", "messages.0.content.1.image_url: m fetches")),
        ((URL,), Capabilities(image_urls=True), ("cannot see images", "messages.0.content.0.image_url: m cannot")),
    ],
)
def test_images_need_a_model_that_sees_them(urls, can, says):
    lack = unmet(seen(*urls), can)
    if says is None:
        assert lack is None
        return
    assert why_skipped("m", lack) == f"m {says[0]}"
    error = refusal(lack, "m")
    assert (error.status, error.code) == (400, "unsupported_parameter")
    assert error.message.startswith(says[1]) and error.param == says[1].partition(":")[0]


def test_a_parameter_that_changes_the_answer_has_to_be_honoured() -> None:
    asked = Query((Message("user", "hi"),), extra={"service_tier": "flex", "parallel_tool_calls": False, "top_k": 5})
    assert unmet(asked, Capabilities()) == "top_k"
    assert unmet(asked, Capabilities(parameters=frozenset(("top_k",)))) is None
    error = refusal("top_k", "m")
    assert (error.param, error.status) == ("top_k", 400)
