"""Tools in processes of their own: limits on time, memory and size, and no secrets."""

import asyncio
import subprocess
from collections.abc import Callable

import pytest

from serve_app.orchestration.server_tools import ServerTools, ToolRequest, run_tool
from serve_app.types import Message, Query, Sampling
from tests.orchestration.fakes import tool


async def test_a_tool_gives_its_result_as_text() -> None:
    assert (await run_tool("double", tool("double"), {"a": 4})).content == "8"


async def test_what_a_tool_prints_is_no_result_and_secrets_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret")
    found = await run_tool("secrets", tool("secrets"), {"a": 0})
    assert not found.failed and "PATH" in found.content
    assert "MY_API_KEY" not in found.content and "no result" not in found.content


@pytest.mark.parametrize(
    ("function", "argument", "says"),
    [
        ("fail", 5, "error: ValueError: no 5 here"),
        ("large", 2_000, "error: its result is over 1000 bytes"),
        ("large", 5_000_000, "error: its result is over 1000 bytes"),
        ("hungry", 4_000, "error: MemoryError"),
        ("leave", 3, "error: it ended without a result"),
        ("nowhere", 1, "error: AttributeError"),
    ],
)
async def test_a_tool_that_fails_says_why(function: str, argument: int, says: str) -> None:
    found = await run_tool(function, tool(function, result_bytes=1000), {"a": argument})
    assert found.failed and found.content.startswith(says)


def _sleeping() -> bool:
    return subprocess.run(["pgrep", "-f", "^sleep 7717"], capture_output=True).returncode == 0


async def _gone(what: Callable[[], bool]) -> bool:
    for _ in range(100):
        if not what():
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_tool_that_hangs_is_killed_with_what_it_started() -> None:
    found = await run_tool("hang", tool("hang", timeout_s=2.0), {"a": 1})
    assert found.failed and "longer than 2 s" in found.content
    assert await _gone(_sleeping)


async def test_a_cancelled_run_leaves_no_process() -> None:
    task = asyncio.ensure_future(run_tool("hang", tool("hang"), {"a": 1}))
    while not _sleeping():
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _gone(_sleeping)


async def test_arguments_are_checked_before_a_process_starts() -> None:
    tools = ServerTools({"double": tool("double")}, 4, 2)
    calls = [ToolRequest(str(i), "double", text) for i, text in enumerate(('{"a": "x"}', "[1]", "no", '{"a": 2}'))]
    outcomes = await tools.run(calls)
    assert [o.failed for o in outcomes] == [True, True, True, False]
    assert "$.a breaks 'type'" in outcomes[0].content and outcomes[3].content == "4"


def test_no_tools_for_several_choices_or_where_the_caller_wants_none() -> None:
    tools = ServerTools({"double": tool("double")}, 4, 2)
    turn = (Message("user", "hi"),)
    assert tools.offered(Query(turn), ["double"]).tools
    assert not tools.offered(Query(turn, Sampling(n=2)), ["double"]).tools
    assert not tools.offered(Query(turn, tool_choice="none"), ["double"]).tools
