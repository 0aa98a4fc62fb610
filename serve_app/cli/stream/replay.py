"""`jethro stream replay`: a file through a running endpoint, or through a learner in this process."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import aiohttp

from serve_app.cli.progress import ProgressLine
from serve_app.config import caller_key
from serve_app.config.strategies import StreamsConfig
from serve_app.errors import UpstreamError
from serve_app.numbers import between, fixed, percent
from serve_app.streams.base import PREFIX, OnlineCore
from serve_app.streams.labels import parsed
from serve_app.streams.online.base import StreamSpec
from serve_app.streams.replay import ReplayRow, ReplayScore, read_rows, replay
from serve_app.streams.spec import check_spec

_TRIES: Final = 5


def rows_of(
    file: Path,
    columns: tuple[str, str | None, str | None],
    labels: Sequence[str],
    limit: int | None,
    shuffle: int | None,
) -> list[ReplayRow]:
    """The first `limit` rows of a file, shuffled first if there is a seed; `columns` are text, label and expert.

    Raises DataError; see `read_rows`.
    """
    rows = read_rows(file, labels, *columns)
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    return rows[:limit]


def offline(rows: Sequence[ReplayRow], given: Mapping[str, Any]) -> ReplayScore:
    """Learn in this process, with the column of the expert as the LLM. `given` are fields of the stream's spec.

    The budget's horizon is the file unless another is given.

    Raises RequestError for a stream that the API would refuse, ConfigError for what only the learner knows.
    """
    budget: dict[str, Any] = {"llm_share": None} if given.get("mu") is not None and "llm_share" not in given else {}
    spec = StreamSpec("replay", instruction="-", **{"horizon": len(rows), **given, **budget})
    check_spec(spec, StreamsConfig().labels, (spec.llm_pool,))
    return replay(OnlineCore().new(spec), rows, spec.levels, spec.seed, _ReplayProgress(len(rows)))


def over_http(rows: Sequence[ReplayRow], labels: Sequence[str], stream: str, url: str, concurrency: int) -> ReplayScore:
    """Send each text as a caller would. Raises UpstreamError if the stream does not answer."""
    return asyncio.run(_sent(rows, labels, PREFIX + stream, url, concurrency))


def summary(score: ReplayScore) -> str:
    """The result in a few lines."""
    parts = [f"{score.done:,} answers"]
    parts += [f"{level} {percent(score.share(level))}" for level in sorted(score.levels, key=lambda x: x == "llm")]
    if "llm" in score.levels:
        parts[-1] = f"llm {between(*(percent(x) for x in (score.share('llm'), *score.share_interval('llm'))))}"
    line = ", ".join(parts)
    if score.accuracy is not None:
        accuracy = between(*(fixed(x, 4) for x in (score.accuracy, *score.accuracy_interval)))
        line += f"\naccuracy {accuracy} "
        line += f"({score.right:,} of {score.known:,}); in brackets 95 % intervals"
    if score.unparsed:
        line += f"\n{score.unparsed:,} answers named no label"
    if score.failed:
        line += f"\n{score.failed:,} requests failed"
    return line


async def _sent(
    rows: Sequence[ReplayRow], labels: Sequence[str], model: str, url: str, concurrency: int
) -> ReplayScore:
    score, progress, work = ReplayScore(), _ReplayProgress(len(rows)), iter(rows)
    key = caller_key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:

        async def work_through() -> None:
            for row in work:
                try:
                    level, text = await _ask(session, model, row.text)
                except (aiohttp.ClientError, TimeoutError, UpstreamError) as e:
                    score.failed += 1
                    progress.trouble = str(e) or type(e).__name__
                else:
                    score.add(level, parsed(text, labels), row)
                progress(score)

        await asyncio.gather(*(work_through() for _ in range(concurrency)))
    return score


async def _ask(session: aiohttp.ClientSession, model: str, text: str) -> tuple[str, str]:
    """The level that answered (`llm` for a pool) and the answer; retried while the endpoint is full or sleeps."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    for left in reversed(range(_TRIES)):
        async with session.post("/v1/chat/completions", json=body) as reply:
            if reply.status in (429, 503) and left:
                await asyncio.sleep(_retry_after_s(reply.headers.get("retry-after", "")))
                continue
            try:
                return _answered(reply, await reply.json(), model)
            except (ValueError, KeyError, IndexError, TypeError) as e:  # of a proxy in front of the endpoint
                raise UpstreamError(f"{reply.status}: no answer of a stream ({type(e).__name__}: {e})") from e
    raise AssertionError("the last try returns or raises")


def _answered(reply: aiohttp.ClientResponse, body: Any, model: str) -> tuple[str, str]:
    """Raises UpstreamError for an error of the endpoint, KeyError and the like for what is not of an endpoint."""
    if reply.status != 200:
        raise UpstreamError(f"{reply.status}: {body['error']['message']}")
    level = "llm" if reply.headers["x-jethro-model"] != model else reply.headers["x-jethro-pool"]
    text = body["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("the answer has no text")
    return level, text


def _retry_after_s(header: str) -> float:
    """One second where the header is not in seconds: a date, or nothing."""
    return float(header) if header.isdecimal() else 1.0


class _ReplayProgress:
    """Shows how far a replay is, its rate and its figures."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._line = ProgressLine()
        self._started_s = monotonic()
        self.trouble = ""

    def __call__(self, score: ReplayScore) -> None:
        self._line.show(lambda: self._text(score), last=score.done + score.failed >= self._total)

    def _text(self, score: ReplayScore) -> str:
        elapsed_s = max(monotonic() - self._started_s, 1e-9)
        parts = [f"{score.done:,} of {self._total:,}", f"{score.done / elapsed_s:,.0f} a second"]
        parts.append(f"LLM {percent(score.share('llm'))}")
        if score.accuracy is not None:
            parts.append(f"accuracy {fixed(score.accuracy, 3)}")
        if score.failed:
            parts.append(f"{score.failed:,} failed: {self.trouble[:80]}")
        return ", ".join(parts)
