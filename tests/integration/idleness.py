"""What is open at a running endpoint, as its Gateways and its engines say themselves."""

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

_OPEN = ("jethro_requests_in_flight", "jethro_engine_running_sequences", "jethro_engine_waiting_sequences")


async def until_idle(client: httpx.AsyncClient, url: str, within_s: float = 5.0) -> None:
    """Wait until no call is open, neither at the Gateway nor in an engine."""
    deadline = asyncio.get_running_loop().time() + within_s
    while opened := await calls(client, url) or await _figures(client, url):
        assert asyncio.get_running_loop().time() < deadline, opened
        await asyncio.sleep(0.02)


async def calls(client: httpx.AsyncClient, url: str) -> dict[str, int]:
    """Calls that the Gateway has open, by pool; pools with none are left out."""
    pools = (await client.get(f"{url}/health/ready")).json()["pools"]
    return {name: pool["in_flight"] for name, pool in pools.items() if pool["in_flight"]}


async def _figures(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    """What is above 0 now. The engines' own word: what health tells of them may be a second old."""
    families = text_string_to_metric_families((await client.get(f"{url}/metrics")).text)
    found = {f.name: sum(sample.value for sample in f.samples) for f in families if f.name in _OPEN}
    assert set(found) == set(_OPEN)
    return {name: value for name, value in found.items() if value}
