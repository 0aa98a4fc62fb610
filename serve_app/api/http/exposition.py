"""The formats of /metrics: Prometheus' text, or OpenMetrics where that is preferred, compressed if that is accepted.

Made in a thread: the text is parsed anew, and a scrape must not make requests wait.
"""

import asyncio
import gzip
import re
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPEN: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_CREATED: Final = "_created"
_QUALITY: Final = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*")


async def exposed(request: Request, text: bytes) -> Response:
    """The response with `text`, Prometheus' own format, in the format and coding that the caller prefers."""
    accept = _preferences(request.headers.get("accept", ""))
    plain = max(accept.get("text/plain", 0.0), accept.get("text/*", 0.0))
    is_open = accept.get("application/openmetrics-text", 0.0) > plain
    packs = _preferences(request.headers.get("accept-encoding", "")).get("gzip", 0.0) > 0
    headers = {"vary": "accept, accept-encoding", **({"content-encoding": "gzip"} if packs else {})}
    body = await asyncio.to_thread(_made, text, is_open, packs) if is_open or packs else text
    return Response(body, headers=headers, media_type=_OPEN if is_open else _TEXT)


def _made(text: bytes, is_open: bool, packs: bool) -> bytes:
    made = openmetrics(text.decode()) if is_open else text
    return gzip.compress(made, compresslevel=5, mtime=0) if packs else made


def openmetrics(text: str) -> bytes:
    """Prometheus' text as OpenMetrics.

    Times of creation, which the text has as gauges of their own, are left out: OpenMetrics has no such gauges. Counters
    get the ending `_total` where they lack it.
    """
    registry = CollectorRegistry()
    registry.register(_TextFamilies(text))
    made: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    return made


class _TextFamilies(Collector):
    """The families of a text, each once."""

    def __init__(self, text: str) -> None:
        self._text = text

    def collect(self) -> list[Metric]:
        """In their order; samples of a family that comes twice are joined."""
        found: dict[str, Metric] = {}
        for family in text_string_to_metric_families(self._text):
            if family.name.endswith(_CREATED):
                continue
            into = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples += family.samples
        return list(found.values())


def _preferences(header: str) -> dict[str, float]:
    """By name the highest weight of a list such as `text/plain;q=0.5, */*`; parameters other than q are left out."""
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        name, *parameters = item.split(";")
        matches = [m for m in map(_QUALITY.fullmatch, parameters) if m]
        weight = float(matches[0].group(1)) if matches else 1.0
        weights[name.strip()] = max(weight, weights.get(name.strip(), 0.0))
    return weights
