"""Which decisions of the log are meant: the same filters for the API, for `jethro decisions` and for a replay."""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Self

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])")
_LONGEST: Final = 256
COLUMNS: Final = ("pool", "strategy", "status", "tenant", "router", "model", "endpoint")
"""Fields that a column of the same name has to equal."""
_TEXTS: Final = (*COLUMNS, "user", "policy")
STATUSES: Final = ("completed", "failed", "cancelled", "route_only")

Cursor = tuple[float, str]
"""Time and id of a decision: a place in the log's order."""


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """What a decision has to be; None: anything. Times are unix seconds, from `since_s` until before `until_s`.

    `policy` is the beginning of a policy version, as `complexity-61b9253a`; `user` what the request named as one.
    """

    since_s: float | None = None
    until_s: float | None = None
    pool: str | None = None
    strategy: str | None = None
    status: str | None = None
    tenant: str | None = None
    router: str | None = None
    model: str | None = None
    endpoint: str | None = None
    user: str | None = None
    policy: str | None = None
    min_latency_ms: float | None = None
    max_latency_ms: float | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str], clock: Callable[[], float] = time.time) -> Self:
        """From texts by parameter: `since`, `until`, and the names of the other fields.

        Raises ValueError, its text beginning with the parameter's name.
        """
        now_s = clock()
        found: dict[str, Any] = {f"{name}_s": moment(given[name], name, now_s) for name in MOMENTS if name in given}
        found |= {name: _number(given[name], name) for name in NUMBERS if name in given}
        for name in _TEXTS:
            if (text := given.get(name)) is not None:
                if len(text) > _LONGEST or "\0" in text:
                    raise ValueError(f"{name}: at most {_LONGEST} characters, without the character NUL")
                found[name] = text
        if found.get("status", "completed") not in STATUSES:
            raise ValueError(f"status: use one of {', '.join(STATUSES)}")
        return cls(**found)


MOMENTS: Final = ("since", "until")
NUMBERS: Final = ("min_latency_ms", "max_latency_ms")
PARAMETERS: Final = tuple(f.name.removesuffix("_s") for f in fields(DecisionFilter))
"""The names of all parameters."""


def moment(text: str, name: str, now_s: float) -> float:
    """Unix seconds of `90s`, `15m`, `2h`, `7d` or `2w` ago, of an ISO 8601 time (UTC by default), or as a number.

    Raises ValueError, its text beginning with `name`.
    """
    text = text.strip()
    if (ago := _AGO.fullmatch(text)) is not None:
        return now_s - float(ago[1]) * _UNITS[ago[2]]
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f"{name}: {text[:40]!r} is no time: write 2h, 15m or 7d for so long ago, 2026-11-30T08:00 (UTC), or unix "
            "seconds"
        )
    return seconds


def read_cursor(text: str) -> Cursor:
    """The place that `write_cursor` wrote. Raises ValueError."""
    seconds, _, id_ = text.partition(":")
    try:
        found = float(seconds)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or not id_ or len(id_) > _LONGEST or "\0" in id_:
        raise ValueError("before: use the `next` of the page before this one, unchanged")
    return found, id_


def write_cursor(record: Mapping[str, Any]) -> str:
    """The place of a decision's record."""
    return f"{float(record['created_s'])!r}:{record['decision_id']}"


def _number(text: str, name: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name}: {text[:40]!r} is not a number")
    return found
