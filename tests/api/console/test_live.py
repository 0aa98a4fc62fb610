"""GET /v1/admin/live over fakes: totals, pools, keys, and one look for many viewers."""

from dataclasses import replace
from time import time

import pytest

from tests.api.fakes import FakePool, services


async def ask(http, text, **body):
    return await http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], **body})


async def test_totals_are_of_what_was_answered(client):
    http = client(services())
    await ask(http, "short", model="jethro")
    await ask(http, "long " * 30, model="jethro", stream=True)
    await ask(http, "x", model="lab-large")
    await ask(http, "x", model="nothing")
    await http.post("/v1/route", json={"model": "jethro", "messages": [{"role": "user", "content": "only a question"}]})
    live = (await http.get("/v1/admin/live")).json()
    totals = live["totals"]
    assert (live["window_s"], live["gateways"], live["in_flight"]) == (60, 1, 0)
    assert (totals["requests"], totals["routed"], totals["strong"], totals["refused"]) == (4, 2, 1, 1)
    assert totals["strong_share"] == 0.5
    assert totals["pools"] == {"small": 1, "large": 2}
    assert totals["cost_usd"] == pytest.approx(3 * (5 * 1.0 + 3 * 2.0) / 1e6)
    assert totals["latency_p50_ms"] > 0


async def test_the_history_is_of_whole_steps(client):
    live = (await client().get("/v1/admin/live")).json()
    history = live["history"]
    assert {len(column) for column in history.values()} == {120}
    assert history["at_s"][-1] <= live["now_s"] - live["step_s"]
    assert history["strong_share"] == [None] * 120


async def test_pools_are_shown_with_their_model_and_load(client):
    live = (await client(services(large=FakePool("large", "lab-large", replicas=0))).get("/v1/admin/live")).json()
    assert live["pools"]["small"]["ok"] is True
    assert live["pools"]["large"]["ok"] is False
    assert live["pools"]["large"]["why"] == "no replica answers"
    assert live["pools"]["large"]["model"] == "jlab-large"
    assert live["pools"]["small"]["price"] == {"input_usd_per_million": 0.1, "output_usd_per_million": 0.1}


@pytest.mark.parametrize("window", ["30", "60", "300", "600"])
async def test_windows(client, window):
    live = (await client().get(f"/v1/admin/live?window_s={window}")).json()
    assert live["window_s"] == int(window)


@pytest.mark.parametrize("window", ["", "7", "-60", "sixty", "60.0"])
async def test_other_windows_are_refused(client, window):
    response = await client().get(f"/v1/admin/live?window_s={window}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "window_s")


async def test_all_gateways_are_merged_and_asked_once_a_second(client):
    asked = 0
    step = {"requests": 2, "routed": 2, "strong": 1, "escalated": 0, "cost_usd": 0.5, "saved_usd": 0.25}
    step |= {"wasted_usd": 0.0, "tokens": 10, "outcomes": {"completed": 2}, "pools": {"small": 1, "large": 1}}
    step |= {"strategies": {"route": 2}, "latency": {40: 2}, "ttft": {}}
    pools = {"small": {"ok": True, "replicas": 2, "in_flight": 1, "waiting": 3, "why": None}}
    rating = {"strategy": "route", "router": "length", "pool": "small", "error": 0.2, "ratings": 10}

    async def look():
        nonlocal asked
        asked += 1
        at = int(time() // 5)
        one = {"steps": [{**step, "at": at}], "in_flight": 1, "pools": pools}
        return [{**one, "calibration": [rating]}, {**one, "calibration": [{**rating, "error": 0.4, "ratings": 30}]}]

    http = client(replace(services(), live_gateways=look))
    live = (await http.get("/v1/admin/live")).json()
    await http.get("/v1/admin/live?window_s=300")
    assert asked == 1
    assert (live["gateways"], live["in_flight"], live["totals"]["requests"]) == (2, 2, 4)
    assert live["totals"]["saved_usd"] == 0.5
    assert live["pools"]["small"]["in_flight"] == 2
    assert live["pools"]["small"]["replicas"] == 2
    assert live["calibration"] == [{**rating, "error": pytest.approx(0.35), "ratings": 40}]


async def test_keys(client):
    parts = replace(services(keys={"acme": "k"}), admin_key="boss")
    for headers, status in (({}, 401), ({"authorization": "Bearer k"}, 401), ({"authorization": "Bearer boss"}, 200)):
        assert (await client(parts).get("/v1/admin/live", headers=headers)).status_code == status
