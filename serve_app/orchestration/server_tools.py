"""Tools that run on the server: offered to the model, run in a process of their own, and given back as turns.

A tool is a Python function that the operator registered. Its process has a limit on time, memory and the size of its
result, none of this process's secrets, and is killed with everything that it started. It is not a sandbox: it runs
with the same user's rights.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from serve_app.config.environment import tool_environment
from serve_app.config.orchestration import ToolConfig
from serve_app.errors import UpstreamError
from serve_app.orchestration.checks import mismatch
from serve_app.tracing.spans import spanned
from serve_app.types import Message, Query
from serve_app.wire.answers import AnswerReader

logger = logging.getLogger("jethro.orchestration")

_TOOL: Final = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"}
"""Attributes of the span of a tool's run, by OpenTelemetry's conventions."""
_OVERHEAD: Final = 1024
"""Bytes of a reply around its result."""


class ToolFailure(UpstreamError):
    """A tool of the server failed, or a model does not come to an end with them: the next tier continues."""

    default_code = "tool_failed"


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call that a model made, `arguments` as it wrote them."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a call gave: its result, or why there is none."""

    content: str
    failed: bool = False


class ServerTools:
    """Registered tools by name. `most_steps`: turns of one tier that call tools; `at_once`: processes of one query."""

    def __init__(self, tools: Mapping[str, ToolConfig], most_steps: int, at_once: int) -> None:
        self._tools = tools
        self.most_steps = most_steps
        self._at_once = at_once

    def offered(self, query: Query, names: Sequence[str]) -> Query:
        """The query with these tools next to the caller's own; the caller's count where they share a name.

        A query for several choices gets none: their calls would have to be continued one by one.
        """
        if not names or query.endpoint != "chat" or query.sampling.n != 1 or query.tool_choice == "none":
            return query
        own = {tool["function"]["name"] for tool in query.tools}
        added = [self._described(name) for name in names if name not in own]
        extra = {**query.extra, "parallel_tool_calls": False} if own and added else query.extra
        return replace(query, tools=(*query.tools, *added), extra=extra)

    def to_run(self, reading: AnswerReader, query: Query, names: Sequence[str]) -> list[ToolRequest]:
        """The calls of an answer if all of them are of tools of the server; otherwise the caller runs them, or none."""
        own = {tool["function"]["name"] for tool in query.tools}
        said = reading.choices.get(0)
        if said is None or not said.calls or len(reading.choices) != 1:
            return []
        calls = [call for _, call in sorted(said.calls.items())]
        if any(call["name"] in own or call["name"] not in names for call in calls):
            return []
        return [ToolRequest(f"call_{os.urandom(8).hex()}", call["name"], call["arguments"] or "{}") for call in calls]

    async def run(self, calls: Sequence[ToolRequest]) -> list[ToolOutcome]:
        """Run the calls, at most `at_once` together; a cancellation kills every process."""
        room = asyncio.Semaphore(self._at_once)

        async def one(call: ToolRequest) -> ToolOutcome:
            async with room:
                with spanned(f"execute_tool {call.name}", {**_TOOL, "gen_ai.tool.name": call.name}) as span:
                    outcome = await self._outcome(call)
                    if span is not None and outcome.failed:
                        span.failed(ToolFailure.default_code)
                    return outcome

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(call)) for call in calls]
        return [task.result() for task in running]

    def _described(self, name: str) -> dict[str, Any]:
        tool = self._tools[name]
        function = {"name": name, "description": tool.description, "parameters": tool.parameters}
        return {"type": "function", "function": function}

    async def _outcome(self, call: ToolRequest) -> ToolOutcome:
        tool = self._tools[call.name]
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            return ToolOutcome("error: the arguments are no JSON object", failed=True)
        if not isinstance(arguments, dict):
            return ToolOutcome("error: the arguments are no JSON object", failed=True)
        if why := mismatch(arguments, tool.parameters):
            return ToolOutcome(f"error: the arguments do not fit: {why}", failed=True)
        return await run_tool(call.name, tool, arguments)


def turns_of(calls: Sequence[ToolRequest], outcomes: Sequence[ToolOutcome]) -> list[Message]:
    """The assistant's turn with its calls, and a turn of each tool with what it gave."""
    made = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]
    results = [
        Message("tool", outcome.content, {"tool_call_id": call.id})
        for call, outcome in zip(calls, outcomes, strict=True)
    ]
    return [Message("assistant", "", {"tool_calls": made}), *results]


async def run_tool(name: str, tool: ToolConfig, arguments: Mapping[str, Any]) -> ToolOutcome:
    """One run in a process of its own; never raises for what the tool does."""
    request = {"function": tool.function, "arguments": arguments, "memory_bytes": tool.memory_mib << 20}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serve_app.orchestration.tool_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=tool_environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(tool.timeout_s):
            reply = await _exchange(process, orjson.dumps(request), tool.result_bytes + _OVERHEAD)
    except TimeoutError:
        return _failed(name, f"it took longer than {tool.timeout_s:g} s")
    finally:
        await _end(process)
    if reply is None:
        return _failed(name, f"its result is over {tool.result_bytes} bytes")
    try:
        said = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return _failed(name, "it ended without a result")
    if "error" in said:
        return _failed(name, f"{said['error']}: {said['message']}")
    if len(said["result"].encode()) > tool.result_bytes:
        return _failed(name, f"its result is over {tool.result_bytes} bytes")
    return ToolOutcome(said["result"])


async def _exchange(process: asyncio.subprocess.Process, request: bytes, most: int) -> bytes | None:
    """What the process writes, None if it is more than `most` bytes."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(request)
        await process.stdin.drain()
        process.stdin.close()
    found = b""
    while piece := await process.stdout.read(65_536):
        found += piece
        if len(found) > most * 2:  # characters beyond ASCII may be escaped
            return None
    return found


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process and of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def _failed(name: str, why: str) -> ToolOutcome:
    logger.warning("tool %s failed: %s", name, why.partition(":")[0])
    return ToolOutcome(f"error: {why}", failed=True)
