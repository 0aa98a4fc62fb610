"""Asks the upstreams of remote pools what the config says of them: model, one token, capabilities, clock.

Each call is one that serving makes, with the same client, key, proxy and limits of time, and costs a few tokens. No key
is in any finding. Pools whose engines are ours have no upstream: nothing is requested of them.
"""

import asyncio
import difflib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import orjson

from serve_app import __version__
from serve_app.config.engines import OpenAISettings
from serve_app.config.pools import PoolConfig
from serve_app.errors import ConfigError, JethroError, NotFound, Overloaded, RequestError
from serve_app.pools.client_session import client_session
from serve_app.pools.factory import remote_options
from serve_app.pools.upstream import Timeouts, Upstream
from serve_app.pools.upstream_errors import NoConnection, SlowUpstream, read_whole
from serve_app.types import Message, Query, Sampling
from serve_app.wire.requests import query_to_openai

CALL_S: Final = 10.0
"""Longest wait for one answer: a model that is loaded writes a token in far less."""
TOTAL_S: Final = 30.0
"""Longest check of one upstream; all are checked at once."""
_CLOCK_S: Final = 5.0
"""Clocks that differ by more are reported: an HTTP date has whole seconds, and its answer takes a while."""
_NAMED: Final = 6
"""Models of an upstream that a finding names."""
_PATH: Final = "/chat/completions"
_HELLO: Final = (Message("user", "Say hello."),)
_SHORT, _LONG = 1, 64
"""Tokens of an answer that only has to come, and of one that has to be complete."""
_SCHEMA: Final = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CONTEXT_KEYS: Final = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Where servers say in /models how long a context may be: vLLM's key first."""
_OFFERS: Final = {"logprobs": "log-probabilities", "guided": "response_format", "tools": "tools"}
"""Capabilities that the engine's settings of the same names declare."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing of an upstream that the operator should know; `refused`: the config cannot be served like this."""

    pool: str
    url: str
    key: str
    """The config's key to change, dotted."""
    problem: str
    fix: str
    refused: bool = True

    def __str__(self) -> str:
        where = self.url.partition("?")[0]  # a query may hold a key
        return f"{self.key}: {where}: {self.problem}; {self.fix}"


@dataclass(slots=True)
class UpstreamReport:
    """What one address of a pool was found to be; None where it did not say."""

    pool: str
    url: str
    model: str
    """The id that it is called by."""
    findings: list[Finding] = field(default_factory=list)
    models: tuple[str, ...] | None = None
    """All model ids that it lists."""
    supports: dict[str, bool] = field(default_factory=dict)
    """`streaming`, and those of `logprobs`, `guided` and `tools` that were tried."""
    max_context_tokens: int | None = None
    clock_ahead_s: float | None = None
    """Its clock against ours."""
    answer_s: float | None = None
    """From the request of one token to the whole answer."""

    @property
    def usable(self) -> bool:
        """Whether nothing was found that keeps the config from being served."""
        return not any(finding.refused for finding in self.findings)

    def summary(self) -> str:
        """What it is, on one line: pool, address, model, time of one token, capabilities, clock."""
        seconds = "not answered" if self.answer_s is None else f"one token in {self.answer_s:.2f} s"
        able = ", ".join(name for name, there in self.supports.items() if there)
        off_s = self.clock_ahead_s
        clock = "" if off_s is None else f"; clock off by {off_s:+.0f} s" if abs(off_s) > _CLOCK_S else "; clock agrees"
        where = self.url.partition("?")[0]
        return f"{self.pool}: {where} as {self.model}: {seconds}; {able or 'no capability'}{clock}"


async def check_upstreams(
    pools: Mapping[str, PoolConfig], *, explore: bool = False, call_s: float = CALL_S, total_s: float = TOTAL_S
) -> list[UpstreamReport]:
    """A report of every address of every remote pool that chats, in the config's order; all are checked at once."""
    remote = [(n, p, p.engine) for n, p in pools.items() if isinstance(p.engine, OpenAISettings) and not p.embeds]
    addresses = [(name, pool, url) for name, pool, engine in remote for url in engine.urls]
    checks = (check_upstream(n, p, url, explore=explore, call_s=call_s, total_s=total_s) for n, p, url in addresses)
    return list(await asyncio.gather(*checks))


async def check_upstream(
    name: str, pool: PoolConfig, url: str, *, explore: bool = False, call_s: float = CALL_S, total_s: float = TOTAL_S
) -> UpstreamReport:
    """The report of one address of the remote pool `name`. Raises nothing: what fails is a finding.

    `explore` also tries capabilities that the config does not declare, for who writes a config. `call_s` bounds each
    call, `total_s` all of them.
    """
    assert isinstance(pool.engine, OpenAISettings)
    report = UpstreamReport(name, url, pool.engine.upstream_model or pool.model)
    check = _Check(pool, pool.engine, report, call_s)
    try:
        async with asyncio.timeout(total_s):
            await check.run(explore)
    except TimeoutError:
        check.found("urls", f"the check was not finished within {total_s:g} s", "look at the server's load")
    except ConfigError as error:  # a key or a proxy's password that is not set
        key, _, problem = str(error).partition(": ")
        report.findings.append(Finding(name, url, key, *_cut(problem)))
    return report


async def list_models(name: str, pool: PoolConfig, url: str, *, call_s: float = CALL_S) -> tuple[str, ...]:
    """The model ids that the upstream at `url` lists, none where it has no list. Raises JethroError without an answer.

    The pool's own model is not looked at: this is for who does not know it yet.
    """
    assert isinstance(pool.engine, OpenAISettings)
    report = UpstreamReport(name, url, pool.model)
    check = _Check(pool, pool.engine, report, call_s)
    async with check.client() as upstream:
        await check.listing(upstream)
    return report.models or ()


def _cut(sentence: str) -> tuple[str, str]:
    problem, _, fix = sentence.partition("; ")
    return problem, fix


class _Check:
    """The check of one address: its calls in order, and the findings that they lead to."""

    def __init__(self, pool: PoolConfig, engine: OpenAISettings, report: UpstreamReport, call_s: float) -> None:
        self._pool, self._engine, self._report, self._call_s = pool, engine, report, call_s
        self._tokens_key: Any = "max_tokens"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Upstream]:
        """The upstream as serving reaches it. Raises ConfigError if its key is not set."""
        options = remote_options(self._report.pool, self._pool, self._engine)
        timeouts = Timeouts(min(self._engine.connect_timeout_s, self._call_s), self._call_s, self._call_s)
        async with client_session(options.proxy) as session:
            yield Upstream(self._report.url, session=session, headers=options.headers, timeouts=timeouts)

    async def run(self, explore: bool) -> None:
        """Fill the report."""
        async with self.client() as upstream:
            try:
                await self.listing(upstream)
            except NoConnection as error:
                self._refused(error)
                return
            except JethroError:
                pass  # the calls below are those that serving makes: they decide
            if not await self._one_token(upstream):
                return
            await self._supports("streaming", self._streams(upstream), declared=True)
            for capability, probe in (("logprobs", self._logprobs), ("guided", self._guided), ("tools", self._tools)):
                declared = bool(getattr(self._engine, capability))
                if declared or explore:
                    await self._supports(capability, probe(upstream), declared=declared)

    def found(self, key: str, problem: str, fix: str, *, refused: bool = True) -> None:
        """Add a finding; `key` is one of the engine's."""
        pool = self._report.pool
        whole = key if key.startswith("pools.") else f"pools.{pool}.engine.{key}"
        self._report.findings.append(Finding(pool, self._report.url, whole, problem, fix, refused))

    async def listing(self, upstream: Upstream) -> None:
        """Models, contexts and the clock, by GET /models. Raises JethroError without an answer."""
        before_s = time.time()
        status, headers, body = await upstream.get("/models")
        self._clock(headers.get("date"), (before_s + time.time()) / 2)
        entries = _entries(body) if status == 200 else None
        if entries is None:
            return
        self._report.models = tuple(entries)
        own = entries.get(self._report.model, {})
        longest = next((own[key] for key in _CONTEXT_KEYS if isinstance(own.get(key), int)), None)
        self._report.max_context_tokens = longest
        configured = self._engine.max_context_tokens
        if longest is not None and configured is not None and configured > longest:
            problem = f"the upstream's longest context is {longest} tokens, not {configured}"
            self.found("max_context_tokens", problem, f"set {longest}")

    def _clock(self, date: str | None, now_s: float) -> None:
        try:
            ahead_s = parsedate_to_datetime(date or "").timestamp() - now_s
        except (ValueError, OverflowError):
            return
        self._report.clock_ahead_s = ahead_s
        if abs(ahead_s) > _CLOCK_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            fix = "one of the two is wrong: synchronize it (NTP), or times in logs, streams and Retry-After are off"
            self.found("urls", f"its clock is {abs(ahead_s):.0f} s {way} this machine's", fix, refused=False)

    async def _one_token(self, upstream: Upstream) -> bool:
        """Whether one token is answered. Some models take the bound by its newer name alone, or need more to think."""
        start_s = time.monotonic()
        try:
            try:
                await self._answer(upstream, _SHORT)
            except RequestError as error:
                if "max_tokens" not in error.message and "max_completion_tokens" not in error.message:
                    raise
                self._tokens_key = "max_completion_tokens"
                await self._answer(upstream, _LONG)
        except JethroError as error:
            self._refused(error)
            return False
        self._report.answer_s = time.monotonic() - start_s
        models = self._report.models
        if models and self._report.model not in models:
            self.found(
                self._model_key(), f"it answers as {self._report.model!r}, which its list of models lacks",
                f"it lists {_some(models)}: make sure that this is the model you mean", refused=False,
            )  # fmt: skip
        return True

    def _refused(self, error: JethroError) -> None:
        """The finding of a call that serving makes and that failed."""
        models, model, message = self._report.models, self._report.model, error.message
        unlisted = models is not None and model not in models
        env = self._engine.api_key_env
        if error.code == "upstream_refused_key":
            if env:
                self.found("api_key_env", f"{message}, the one in ${env}", "put a key that is valid there into it")
            else:
                fix = "name the environment variable that holds the upstream's key"
                self.found("api_key_env", "the upstream requires a key and none is configured", fix)
        elif isinstance(error, NoConnection):
            cause = _why_unreachable(error)
            self.found("urls", message + cause, "start the server, or correct the URL")
        elif isinstance(error, SlowUpstream):
            self.found("urls", message, "look at the server's load; a model that loads answers later")
        elif isinstance(error, Overloaded):
            self.found("urls", f"rate limited: {message}", "try again later, or raise the limit or quota there")
        elif isinstance(error, NotFound) or (isinstance(error, RequestError) and unlisted):
            listed = f"it lists {_some(models, model)}" if models else f"it says: {message}"
            self.found(self._model_key(), f"the upstream has no model {model!r}", f"{listed}: write one of its ids")
        elif "status 404" in message or "redirect" in message or "was expected" in message:
            self.found("urls", message, "write the base URL of its OpenAI API, which most often ends in /v1")
        else:
            self.found("urls", f"one token was not answered: {message}", "see the upstream's log")

    def _model_key(self) -> str:
        own = self._engine.upstream_model is None
        return f"pools.{self._report.pool}.model" if own else "upstream_model"

    async def _supports(self, name: str, probe: Awaitable[str | None], *, declared: bool) -> None:
        """Ask for one capability; `probe` returns why it is not there, None if it is."""
        try:
            lacking = await probe
        except JethroError as error:
            lacking = error.message
        self._report.supports[name] = lacking is None
        if name == "streaming":
            if lacking is not None:
                self.found("urls", f"no streamed answer: {lacking}", "serve it with a server that streams")
        elif declared and lacking is not None:
            problem = f"the upstream does not support {_OFFERS[name]}: {lacking}"
            self.found(name, problem, f"set {name}: false, or turn it on in the upstream")
        elif not declared and lacking is None:
            problem = f"the upstream supports {_OFFERS[name]}, which the config does not offer"
            self.found(name, problem, f"set {name}: true to offer it", refused=False)

    async def _streams(self, upstream: Upstream) -> str | None:
        body = self._body(Query(_HELLO, self._sampling(_LONG)), stream=True)
        deadline_s = asyncio.get_running_loop().time() + self._call_s
        events = await upstream.open_stream(_PATH, body, _headers("text/event-stream"), deadline_s=deadline_s)
        async with aclosing(events):
            frames = [frame async for frame in events]
        return None if frames else "the stream had no event"

    async def _logprobs(self, upstream: Upstream) -> str | None:
        sampling = replace(self._sampling(_SHORT), logprobs=True, top_logprobs=1)
        choice = await self._choice(upstream, Query(_HELLO, sampling))
        tokens = (choice.get("logprobs") or {}).get("content")
        return None if tokens else "the answer has none"

    async def _guided(self, upstream: Upstream) -> str | None:
        """By a schema; an upstream that knows no schemas may still keep to JSON."""
        schema = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": _SCHEMA}}
        ask = (Message("user", "Are you there? Reply as JSON with the one key ok."),)
        try:
            choice = await self._choice(upstream, Query(ask, self._sampling(_LONG), response_format=schema))
        except RequestError:
            kind = {"type": "json_object"}
            choice = await self._choice(upstream, Query(ask, self._sampling(_LONG), response_format=kind))
        text = str(choice.get("message", {}).get("content") or "")
        if choice.get("finish_reason") == "length":
            return None if not text.strip() or text.lstrip().startswith("{") else "the answer is not JSON"
        try:
            return None if isinstance(orjson.loads(text), dict) else "the answer is no JSON object"
        except ValueError:
            return "the answer is not JSON"

    async def _tools(self, upstream: Upstream) -> str | None:
        """Not refused is enough: whether to call a tool is the model's choice."""
        ask = (Message("user", "What is the weather in Paris? Look it up."),)
        await self._choice(upstream, Query(ask, self._sampling(_LONG), tools=(_TOOL,), tool_choice="auto"))
        return None

    async def _answer(self, upstream: Upstream, max_tokens: int) -> None:
        await self._choice(upstream, Query(_HELLO, self._sampling(max_tokens)))

    async def _choice(self, upstream: Upstream, query: Query) -> dict[str, Any]:
        """The first choice of the whole answer."""
        deadline_s = asyncio.get_running_loop().time() + self._call_s
        answer = await upstream.post(_PATH, self._body(query), _headers("application/json"), deadline_s=deadline_s)
        try:
            choice: dict[str, Any] = read_whole(answer, Counter()).parsed["choices"][0]
        except JethroError as error:
            raise upstream.refusal(error) from error.__cause__
        return choice

    def _body(self, query: Query, *, stream: bool = False) -> bytes:
        return orjson.dumps(query_to_openai(query, model=self._report.model, stream=stream))

    def _sampling(self, max_tokens: int) -> Sampling:
        return Sampling(max_tokens=max_tokens, max_tokens_key=self._tokens_key)


def _headers(accept: str) -> dict[str, str]:
    return {"accept": accept, "accept-encoding": "identity", "user-agent": f"jethro/{__version__}"}


def _entries(body: bytes) -> dict[str, dict[str, Any]] | None:
    """The list of models by id; None for anything else."""
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return None
    data = parsed.get("data") if isinstance(parsed, dict) else None
    if not isinstance(data, list):
        return None
    return {str(entry["id"]): entry for entry in data if isinstance(entry, dict) and "id" in entry}


def _some(models: Sequence[str], like: str = "") -> str:
    """Models to name in a sentence, those most like `like` first."""
    near = difflib.get_close_matches(like, models, _NAMED, cutoff=0.3)
    named = list(dict.fromkeys([*near, *models]))[:_NAMED]
    more = f" and {len(models) - len(named)} more" if len(models) > len(named) else ""
    return ", ".join(named) + more if named else "none"


def _why_unreachable(error: NoConnection) -> str:
    """The operating system's or TLS's reason, which the message for callers leaves out."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        return f" (its certificate is not accepted: {cause.certificate_error})"
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return f" (no address is known of the host {cause.host})"
    reason = cause.strerror if isinstance(cause, OSError) else None
    return f" ({reason})" if reason else ""
