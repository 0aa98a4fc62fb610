"""The formats of /metrics, read by the parsers of Prometheus' own client."""

import gzip

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families as lenient

from serve_app.api.http.exposition import openmetrics

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def samples(families):
    return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}


def text() -> str:
    registry = CollectorRegistry()
    Counter("jethro_things", 'Things "quoted" \\ and\nbroken.', ["pool"], registry=registry).labels('a"b\\c\nd').inc(3)
    Gauge("jethro_level", "A level.", registry=registry).set(float("inf"))
    Histogram("jethro_wait_seconds", "A wait.", buckets=(0.1, 1), registry=registry).observe(0.5)
    return generate_latest(registry).decode()


def test_the_same_samples_without_times_of_creation():
    expected = {k: v for k, v in samples(lenient(text())).items() if not k[0].endswith("_created")}
    assert len(expected) == 7
    assert samples(strict(openmetrics(text()).decode())) == expected


def test_texts_one_after_the_other_are_one_with_one_end():
    twice = text() + text().replace('pool="', 'pool="other').replace("jethro_level", "jethro_other")
    twice += "# HELP engine_things_total x\n# TYPE engine_things_total counter\nengine_things_total 2\n"
    twice += "# HELP odd x\n# TYPE odd counter\nodd 2\nuntyped 3\n"
    made = openmetrics(twice).decode()
    assert made.endswith("# EOF\n")
    assert made.count("# EOF") == 1
    assert made.count("# TYPE jethro_things ") == 1
    assert "odd_total 2.0" in made and "engine_things_total 2.0" in made


async def test_openmetrics_for_those_who_prefer_it(client):
    asked = client()
    await asked.post("/v1/chat/completions", json={"model": "jethro", "messages": [{"role": "user", "content": "hi"}]})
    response = await asked.get("/metrics", headers={"accept": PROMETHEUS})
    assert response.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = samples(strict(response.text))
    assert any(name == "jethro_requests_total" for name, *_ in found)
    plain = await asked.get("/metrics", headers={"accept": "text/plain"})
    same = {k: v for k, v in samples(lenient(plain.text)).items() if not k[0].endswith("_created")}
    assert found.keys() == same.keys()


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain", "application/openmetrics-text;q=0", "text/plain, application/openmetrics-text;q=0.5"],
)
async def test_the_text_format_for_all_others(client, accept):
    response = await client().get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# EOF" not in response.text


async def test_compressed_if_that_is_accepted(client):
    asked = client(**{"accept-encoding": "gzip"})
    async with asked.stream("GET", "/metrics") as response:
        assert response.headers["content-encoding"] == "gzip"
        raw = b"".join([part async for part in response.aiter_raw()])
    assert b"jethro_requests_in_flight" in gzip.decompress(raw)
    plain = await asked.get("/metrics", headers={"accept-encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in plain.headers
