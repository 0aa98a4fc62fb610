"""Goodput: requests a second that meet every latency limit (the definition of DistServe and vLLM's benchmark)."""

from collections.abc import Mapping

METRICS = ("ttft", "tpot", "e2el")


def parse_goodput(text: str) -> dict[str, float]:
    """Limits in seconds by metric from `ttft:200 tpot:50 e2el:1000` (milliseconds).

    Raises ValueError naming the part that is wrong.
    """
    limits: dict[str, float] = {}
    for part in text.split():
        name, colon, value = part.partition(":")
        if name not in METRICS or not colon:
            raise ValueError(f"goodput {part!r}: write metric:milliseconds with one of {', '.join(METRICS)}")
        try:
            limit_ms = float(value)
        except ValueError:
            raise ValueError(f"goodput {part!r}: {value!r} is no number of milliseconds") from None
        if not limit_ms > 0:
            raise ValueError(f"goodput {part!r}: the limit must be positive")
        limits[name] = limit_ms / 1e3
    return limits


def meets(latency_s: Mapping[str, float | None], limits_s: Mapping[str, float]) -> bool:
    """Whether one request meets all limits; a latency it does not have (TPOT of one token) counts as met."""
    return all((value := latency_s.get(name)) is None or value <= limit for name, limit in limits_s.items())
