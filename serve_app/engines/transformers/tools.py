"""Tools in the prompt, and calls in the answer.

A template that knows tools and the form `<tool_call>` renders them itself. For others a system text describes them in
the same form (that of Nous Research's Hermes models, which many others have learned), and earlier calls and results
become text. With the engine's `tool_prompt: none` the model reads nothing of tools: tiny models that cannot read
about them still call one where the caller demands it, since the grammar writes all but the arguments.
"""

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from serve_app.engines.structured import tools_of
from serve_app.engines.transformers.guided.grammars import BARE, HERMES, CallForm, CallPlan
from serve_app.engines.transformers.text import StopScanner
from serve_app.types import Query

_INSTRUCTION = """You can call functions. Each line below is one function, as JSON:
{tools}
To call a function, write nothing but its name and its arguments in this form, once for each call:
<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result is given to you between <tool_response> and </tool_response>. If no function helps, answer in plain text."""

_HEAD = re.compile(r'\s*\{"name": "((?:[^"\\]|\\.)*)", "arguments": ')


class ToolPrompt:
    """How one model reads of tools. `described`: whether it does."""

    def __init__(self, template: str | None, *, described: bool) -> None:
        self.described = described
        self.native = described and "tools" in (template or "") and "<tool_call>" in (template or "")

    @property
    def form(self) -> CallForm:
        """The text around a call."""
        return HERMES if self.described else BARE

    def calls(self, query: Query) -> CallPlan | None:
        """The calls that an answer to the query may hold; None: none. Raises RequestError for invalid tools."""
        if not query.tools:
            return None
        tools = tools_of(query)
        named = isinstance(query.tool_choice, Mapping)
        required = named or query.tool_choice == "required"
        if not tools or not (required or self.described):
            return None
        single = named or query.extra.get("parallel_tool_calls") is False
        return CallPlan(tools, self.form, required, single, named)

    def prepare(self, query: Query) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """The messages for the chat template, and the tools to hand to it, if it takes them."""
        messages = [m.to_openai() for m in query.messages]
        tools = [dict(tool) for tool in query.tools] if query.tool_choice != "none" else []
        if self.native:
            return [_with_parsed_arguments(m) for m in messages], tools or None
        messages = [self._as_text(m) for m in messages]
        if not self.described:
            return messages, None
        messages = _joined_results(messages)
        return _instructed(messages, tools) if tools else messages, None

    def _as_text(self, message: dict[str, Any]) -> dict[str, Any]:
        """A turn without calls in fields of their own. Results keep their role if the model reads nothing of tools."""
        if message.get("tool_calls"):
            form = self.form
            objects = [_call_object(call) for call in message["tool_calls"]]
            written = [form.start + form.before + text + form.end for text in objects]
            content = "\n".join([*([message["content"]] if message["content"] else []), *written])
            return {"role": "assistant", "content": content}
        if message["role"] in ("tool", "function"):
            if not self.described:
                return {"role": "tool", "content": message["content"]}
            return {
                "role": "user",
                "content": f"<tool_response>\n{message['content']}\n</tool_response>",
                "_result": True,
            }
        return message


def _call_object(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    name = json.dumps(function.get("name"), ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {function.get("arguments") or "{}"}}}'


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Templates write the arguments as JSON themselves; OpenAI's messages have them as text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call.get("function") or {})
        with suppress(ValueError):  # what a model once wrote, and is no JSON, stays text
            function["arguments"] = json.loads(function.get("arguments") or "{}")
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _joined_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Consecutive results as one turn: some templates demand that users and assistants take turns."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        result = message.pop("_result", False)
        if result and joined and joined[-1].get("_result"):
            joined[-1]["content"] += "\n" + message["content"]
        else:
            joined.append({**message, "_result": True} if result else message)
    return [{key: value for key, value in m.items() if key != "_result"} for m in joined]


def _instructed(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the description of the tools at the end of the system's."""
    lines = "\n".join(json.dumps(tool.get("function"), ensure_ascii=False) for tool in tools)
    text = _INSTRUCTION.format(tools=lines)
    first = messages[0]
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


class CallReader:
    """Takes the calls out of one choice's text as it grows. The grammar has made sure of their form.

    `called`: whether a call has begun.
    """

    def __init__(self, form: CallForm, *, only_calls: bool, named: bool) -> None:
        self._form, self._named = form, named
        self._scan = StopScanner((form.start,)) if form.start else None
        self._in_call = not form.start
        self._head, self._tail = "", ""
        self._arguments: _JsonEnd | None = None
        self._only_calls = only_calls
        self._index = -1

    @property
    def called(self) -> bool:
        """Whether there is a call so far."""
        return self._index >= 0

    @property
    def finishes_with_calls(self) -> bool:
        """Whether the finish reason is `tool_calls`; a call of the tool that the caller named ends with `stop`."""
        return self.called and not self._named

    def feed(self, text: str, *, last: bool = False) -> tuple[str, tuple[dict[str, Any], ...]]:
        """The text that is none of a call's, and pieces of calls in OpenAI's shape: name first, then arguments."""
        said: list[str] = []
        calls: list[dict[str, Any]] = []
        while True:
            if not self._in_call:
                text = self._speak(text, said)
            elif self._arguments is None:
                text = self._begin(text, calls)
            elif self._arguments.open:
                text = self._argue(text, calls)
            else:
                text = self._end(text)
            if not text:
                break
        if last and not self._in_call and self._scan is not None:
            said.append(self._scan.flush())
        return "".join(said), tuple(calls)

    def _speak(self, text: str, said: list[str]) -> str:
        """Passes text on up to a call's start."""
        assert self._scan is not None
        held = self._scan.held
        out, found = self._scan.feed(text)
        blank = self.called and not out.strip()  # what stands between calls
        said.append("" if self._only_calls or blank else out)
        if not found:
            return ""
        self._in_call = True
        self._scan = StopScanner((self._form.start,))
        return (held + text)[len(out) + len(self._form.start) :]

    def _begin(self, text: str, calls: list[dict[str, Any]]) -> str:
        """Waits for the name."""
        self._head += text
        found = _HEAD.match(self._head)
        if found is None:
            return ""
        rest = self._head[found.end() :]
        self._head, self._arguments = "", _JsonEnd()
        self._index += 1
        function = {"name": json.loads(f'"{found.group(1)}"'), "arguments": ""}
        calls.append(
            {"index": self._index, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
        )
        return rest

    def _argue(self, text: str, calls: list[dict[str, Any]]) -> str:
        assert self._arguments is not None
        end = self._arguments.feed(text)
        if end:
            calls.append({"index": self._index, "function": {"arguments": text[:end]}})
        return text[end:]

    def _end(self, text: str) -> str:
        """Drops what closes a call: its brace and the form's end."""
        closing = "}" + self._form.end
        self._tail += text
        if len(self._tail) < len(closing):
            return ""
        rest = self._tail[len(closing) :]
        self._tail, self._arguments = "", None
        self._in_call = not self._form.start
        return rest


class _JsonEnd:
    """Finds the end of one JSON object in a text that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False
        self.open = True

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.open = False
                    return at + 1
        return len(text)


def reader_of(calls: CallPlan | None) -> CallReader | None:
    """A reader for one choice; None where no calls may come."""
    return None if calls is None else CallReader(calls.form, only_calls=calls.required, named=calls.named)
