"""The engines' own metrics, scraped from every replica of a pool and labelled with `pool` and `replica`."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from serve_app.pools.http import HttpPool

logger = logging.getLogger("jethro.pools")

_TIMEOUT_S = 5.0  # half of Prometheus' own default: a replica that is busy starting has not failed
_MOST_BYTES = 4 * 2**20


async def scrape(pools: Iterable[HttpPool]) -> str:
    """Prometheus text of all replicas, those in cooldown included; one that does not answer is skipped and logged."""
    members = [(p, m.address) for p in pools if p.scraped for m in p.directory.members]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        texts = await asyncio.gather(*(_fetch(session, address, pool.options.headers) for pool, address in members))
    labelled = [(("pool", pool.name), ("replica", address)) for pool, address in members]
    return merged({labels: text for labels, text in zip(labelled, texts, strict=True) if text})


def merged(texts: Mapping[tuple[tuple[str, str], ...], str]) -> str:
    """One text of many, each with its own labels; a family appears once, with all samples."""
    families: dict[str, Metric] = {}
    for labels, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, **dict(labels)}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry).decode()


class _Families:
    """Ready-made families as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _fetch(session: aiohttp.ClientSession, address: str, headers: Mapping[str, str]) -> str:
    url = address.removesuffix("/v1") + "/metrics"
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            body = bytearray()
            async for piece in response.content.iter_any():  # `read(n)` would stop at the first packet
                body += piece
                if len(body) > _MOST_BYTES:
                    logger.warning("no metrics from %s: more than %d bytes", url, _MOST_BYTES)
                    return ""
            return body.decode("utf-8") if response.status == 200 else ""
    except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError) as e:
        logger.warning("no metrics from %s: %s", url, e)
        return ""
