"""One request against a scripted server: every way it can end is told apart."""

from time import perf_counter

import pytest

from benchmarks.load.ask import Asker, Target, reachable
from benchmarks.load.prompts import Prompt
from benchmarks.process import free_port
from benchmarks.record import Record
from tests.benchmarks.load_server import scripted_server


async def ask(text: str, url: str, timeout_s: float = 5.0) -> Record:
    target = Target(url, timeout_s=timeout_s)
    asker = Asker(target)
    try:
        return await asker.ask(3, target.request(Prompt(({"role": "user", "content": text},))), perf_counter())
    finally:
        asker.close()


async def test_a_whole_answer() -> None:
    async with scripted_server() as url:
        r = await ask("good", url)
    assert (r.index, r.outcome, r.text, r.pool) == (3, "ok", "42", "small")
    assert (r.prompt_tokens, r.output_tokens) == (7, 2)
    assert len(r.token_s) == 2
    assert r.due_s <= r.sent_s <= r.token_s[0] <= r.token_s[1] <= r.end_s


@pytest.mark.parametrize(
    ("text", "outcome", "before"),
    [
        ("cut", "cut", False),
        ("error", "error_event", False),
        ("unfinished", "cut", False),
        ("refused", "refused", True),
        ("lost", "lost", True),
    ],
)
async def test_failures(text: str, outcome: str, before: bool) -> None:
    async with scripted_server() as url:
        r = await ask(text, url)
    assert r.outcome == outcome
    assert r.before_first_byte is before
    assert r.detail
    assert not r.ok


async def test_a_timeout_keeps_what_came_before() -> None:
    async with scripted_server() as url:
        r = await ask("hang", url, timeout_s=0.2)
    assert (r.outcome, r.text, r.before_first_byte) == ("timeout", "4", False)


async def test_nobody_listens() -> None:
    r = await ask("good", f"http://127.0.0.1:{free_port()}")
    assert r.outcome == "lost"
    assert r.detail.startswith("connect")


async def test_reachable_says_what_to_do() -> None:
    with pytest.raises(ConnectionError, match="jethro serve"):
        await reachable(f"http://127.0.0.1:{free_port()}")


async def test_a_connection_is_used_again_and_a_closed_one_is_not() -> None:
    async with scripted_server() as url:
        target = Target(url)
        asker = Asker(target)
        for text in ("good", "good", "cut", "good"):
            record = await asker.ask(0, target.request(Prompt(({"role": "user", "content": text},))), perf_counter())
            assert record.outcome == ("cut" if text == "cut" else "ok")
        assert len(asker._free) == 1
        asker.close()
