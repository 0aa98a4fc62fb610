"""The finished calls of a collection, one JSON line each, so that nothing is requested or paid twice after a kill.

The first line holds what was requested (queries, pools, sampling); a journal of anything else is refused. A last line
that was cut short is dropped. The file is locked while it is open: two runs would request the same things twice.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from serve_app.errors import ConfigError, DataError, UpstreamError, writing
from serve_app.journal import Journal
from serve_app.pools.base import Pool
from serve_app.types import TokenLogprob
from serve_app.wire.frames import Answer

_KIND: Final = "jethro-journal"
_FORMAT: Final = 1
_SYNC_EVERY_S: Final = 1.0
"""A kill of the process loses no line; of a crash of the machine, at most this long."""


@dataclass(frozen=True, slots=True)
class CollectedCall:
    """A finished call: a pool's answers to a query, or, with `failed`, why it refused it for good.

    `prompt_tokens` and `completion_tokens` are those of the whole call, over all its texts; `cost_usd` is what was
    paid for it. `detail`: what else is known of the answers, such as their log-probabilities, JSON-ready.
    """

    query: str
    pool: str
    texts: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    failed: str | None = None
    detail: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, query_id: str, name: str, pool: Pool, answer: Answer, latency_ms: float) -> Self:
        """What a pool answered. Raises UpstreamError if that is no chat completion with a choice."""
        try:
            choices = sorted(answer.parsed["choices"], key=lambda choice: choice["index"])
            texts = tuple(_text(choice) for choice in choices)
            tokens = [_tokens(choice) for choice in choices]
            usage = answer.usage
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise UpstreamError(f"the upstream sent no chat completion: {answer.body[:80]!r}") from e
        if not texts:
            raise UpstreamError("the upstream sent an answer without a choice")
        cost_usd, detail = pool.price.cost_usd(usage), {"tokens": tokens} if any(tokens) else None
        counts = (usage.prompt_tokens, usage.completion_tokens)
        return cls(query_id, name, texts, *counts, cost_usd, latency_ms, detail=detail)

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """The tokens of the first text with their log-probabilities; empty where none were recorded."""
        return self.all_logprobs()[0] if self.texts else ()

    def all_logprobs(self) -> list[tuple[TokenLogprob, ...]]:
        """The same of each text."""
        recorded = (self.detail or {}).get("tokens") or [[] for _ in self.texts]
        return [
            tuple(TokenLogprob(text, value, tuple((t, v) for t, v in top)) for text, value, top in tokens)
            for tokens in recorded
        ]


class AnswerJournal:
    """An open journal; `entries` are those found and those added, in order. To be closed, or used in a `with`."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open `path`, or make it. `header` is JSON-ready and names what the entries answer.

        Raises ConfigError if another run has it open or it answers something else, DataError for a broken line.
        """
        self.path = path
        self.entries: list[CollectedCall] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._journal = Journal(path, exclusive=True)
        except BlockingIOError:
            raise ConfigError(f"{path}: another run is writing to it; wait for it, or give another --out") from None
        self._synced_s = monotonic()
        try:
            self._read(json.loads(json.dumps(header)))
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, entry: CollectedCall) -> None:
        """Keep an entry. When this returns, no kill of this process can lose it. Raises ConfigError on a full disk."""
        self._write({key: value for key, value in asdict(entry).items() if value is not None})
        self.entries.append(entry)
        if monotonic() - self._synced_s > _SYNC_EVERY_S:
            self._journal.sync()
            self._synced_s = monotonic()

    def close(self) -> None:
        """Bring all to the disk and unlock."""
        self._journal.sync()
        self._journal.close()

    def _read(self, requested: dict[str, Any]) -> None:
        if not (lines := self._journal.lines):
            self._write({"kind": _KIND, "format": _FORMAT, "asked": requested})
            return
        self._check(self._object(1, lines[0]), requested)
        for number, line in enumerate(lines[1:], 2):
            found = self._object(number, line)
            try:
                self.entries.append(CollectedCall(**{**found, "texts": tuple(found["texts"])}))
            except (TypeError, KeyError) as e:
                raise self._fault(number, f"is no entry ({e})") from e

    def _check(self, header: dict[str, Any], requested: dict[str, Any]) -> None:
        if header.get("kind") != _KIND or header.get("format") != _FORMAT:
            raise self._fault(1, f"is not the head of a journal of format {_FORMAT}")
        before = header["asked"]
        for key in dict.fromkeys([*before, *requested]):
            if before.get(key) != requested.get(key):
                raise ConfigError(
                    f"{self.path}: holds answers to something else: {key} was {json.dumps(before.get(key))}, is now "
                    f"{json.dumps(requested.get(key))}; run it as before, give another --out, or delete the journal"
                )

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as e:
            raise self._fault(number, f"is not JSON ({e})") from e
        if not isinstance(found, dict):
            raise self._fault(number, "is no JSON object")
        return found

    def _fault(self, number: int, what: str) -> DataError:
        return DataError(f"{self.path}, line {number}: {what}; delete that line, or the journal to begin anew")

    def _write(self, value: Mapping[str, Any]) -> None:
        with writing(self.path, "make room, then run it again"):
            self._journal.append(json.dumps(value).encode(), sync=False)


def _text(choice: Mapping[str, Any]) -> str:
    content = choice["message"].get("content") if "message" in choice else choice.get("text")
    return str(content or "")


def _tokens(choice: Mapping[str, Any]) -> list[list[Any]]:
    """Tokens as [text, log-prob, [[alternative, log-prob], ...]]; empty where none were requested."""
    content = (choice.get("logprobs") or {}).get("content") or ()
    return [
        [t["token"], t["logprob"], [[a["token"], a["logprob"]] for a in t.get("top_logprobs") or ()]] for t in content
    ]
