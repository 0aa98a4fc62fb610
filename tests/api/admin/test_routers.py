"""Curves, predictions, and thresholds that are changed while the endpoint serves."""

import asyncio
import json
import math
import stat
from itertools import pairwise

import httpx
import pytest

from serve_app.routing.registry import Registry
from tests.api.admin.conftest import ADMIN, EASY, HARD, gateway


async def settled(worlds, threshold: float) -> None:
    """Until the next decision of each Gateway is made with this threshold."""
    async with asyncio.timeout(20):
        for world in worlds:
            while not math.isclose(await world.threshold(), threshold):
                await asyncio.sleep(0.01)


async def test_a_threshold_holds_from_the_next_decision_on_and_is_undone(world):
    own = await world.threshold()
    done = await world.set(0.9)
    assert done.status_code == 200, done.text
    assert (done.json()["threshold"], done.json()["own_threshold"]) == (0.9, own)
    assert await world.threshold() == 0.9
    assert (await world.set(0.3)).json()["change"]["before"] == 0.9
    assert await world.threshold() == 0.3
    undone = (await world.undo()).json()
    assert (undone["threshold"], undone["change"]["action"], undone["change"]["by"]) == (0.9, "undo", "admin")
    assert (await world.undo()).json()["threshold"] == own == await world.threshold()
    again = await world.undo()
    assert (again.status_code, again.json()["error"]["code"]) == (409, "nothing_to_undo")
    history = undone["history"]
    assert [(c["action"], c["after"]) for c in history] == [("undo", 0.9), ("set", 0.3), ("set", 0.9)]


async def test_it_reaches_the_other_gateways_and_outlives_a_restart(tmp_path, keyed):
    tree = keyed(tmp_path)
    async with gateway(tree) as one, gateway(tree) as other:
        assert (await one.set(0.77)).status_code == 200
        await settled([one, other], 0.77)
        assert (await other.undo()).status_code == 200
        own = await other.threshold()
        await settled([one], own)
        assert (await other.set(0.66)).status_code == 200
        await settled([one, other], 0.66)
        shown = [(await w.http.get("/v1/admin/routers")).json() for w in (one, other)]
        assert shown[0] == shown[1]
    async with gateway(tree) as again:
        assert await again.threshold() == 0.66
        assert (await again.undo()).status_code == 200
        assert await again.threshold() == own


async def test_concurrent_changes_follow_one_another(tmp_path, keyed):
    tree = keyed(tmp_path)
    async with gateway(tree) as one, gateway(tree) as other:
        wanted = [round(0.1 + i / 100, 2) for i in range(40)]
        responses = await asyncio.gather(*((one, other)[i % 2].set(t) for i, t in enumerate(wanted)))
        assert {r.status_code for r in responses} == {200}
        state = (await one.http.get("/v1/admin/routers/complexity/curve")).json()
        changes = state["history"][::-1]
        assert sorted(c["after"] for c in changes) == wanted
        for earlier, later in pairwise(changes):
            assert later["before"] == earlier["after"]
        await settled([one, other], changes[-1]["after"])


async def test_the_history_is_for_the_owner_only_and_holds_no_key(world, tmp_path):
    await world.set(0.4)
    file = tmp_path / "routers" / "complexity" / "history.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ADMIN not in file.read_text() and json.loads(file.read_text())["by"] == "admin"


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"{}\n", b"[1]\n", b'{"changed_s": NaN}\n', b"[" * 5000 + b"\n"])
async def test_a_damaged_history_is_said_and_keeps_nobody_from_changing(world, tmp_path, junk):
    await world.set(0.4)
    file = tmp_path / "routers" / "complexity" / "history.jsonl"
    file.write_bytes(file.read_bytes() + junk)
    damaged = (await world.http.get("/v1/admin/routers/complexity/curve")).json()
    assert damaged["history_damaged"] == 1 and len(damaged["history"]) == 1
    assert (await world.set(0.5)).json()["history_damaged"] == 0
    assert (file.parent / "history.jsonl.damaged").read_bytes().endswith(junk)
    assert (await world.undo()).json()["threshold"] == 0.4
    file.unlink()
    file.mkdir()
    assert (await world.http.get("/v1/admin/routers")).status_code == 200
    assert (await world.undo()).status_code == 409
    assert (await world.set(0.5)).status_code == 409


async def test_a_damaged_choice_is_a_conflict_and_the_threshold_in_force_stays(world, tmp_path):
    await world.set(0.4)
    (tmp_path / "routers" / "complexity" / "current").write_text("complexity-61b9253a nonsense")
    for response in (await world.set(0.5), await world.undo()):
        assert response.status_code == 409 and "current" in response.json()["error"]["message"]
    assert await world.threshold() == 0.4
    assert "current" in (await world.http.get("/v1/admin/routers/complexity/curve")).json()["refused"]
    Registry(tmp_path / "routers").use("complexity", "complexity-61b9253a")
    assert (await world.set(0.5)).status_code == 200


async def test_a_registry_that_cannot_be_written_is_a_conflict(tmp_path, keyed):
    (tmp_path / "routers").write_text("a file, no folder")
    async with gateway(keyed(tmp_path)) as world:
        refused = (await world.set(0.5)).json()["error"]
        assert refused["code"] == "registry_unusable" and "routing.registry" in refused["message"]


async def test_the_rule_of_the_config_gives_way_until_it_is_changed(tmp_path, keyed):
    tree = keyed(tmp_path, routing={"strong_share": 0.2})
    async with gateway(tree) as world:
        own = await world.threshold()
        changed = (await world.set(0.5)).json()
        assert (changed["rule"], changed["own_threshold"]) == ("strong_share=0.2", own)
        assert await world.threshold() == 0.5
    async with gateway(tree) as world:
        assert await world.threshold() == 0.5
    async with gateway(keyed(tmp_path, routing={"threshold": 0.25})) as world:  # the later word
        assert await world.threshold() == 0.25
        assert (await world.undo()).status_code == 409
        assert (await world.set(0.3)).status_code == 200
        assert await world.threshold() == 0.3
        assert (await world.undo()).status_code == 200
        assert await world.threshold() == 0.25


async def test_the_command_line_is_in_the_history_and_not_undone_here(world, tmp_path):
    await world.set(0.4)
    Registry(tmp_path / "routers").use("complexity", threshold=0.6)
    await settled([world], 0.6)
    state = (await world.http.get("/v1/admin/routers/complexity/curve")).json()
    latest = state["history"][0]
    assert (latest["by"], latest["before"], latest["after"]) == ("jethro router use", 0.4, 0.6)
    assert (await world.undo()).status_code == 409
    assert (await world.set(0.7)).status_code == 200
    assert (await world.undo()).json()["threshold"] == 0.6


async def test_a_threshold_of_a_version_that_no_longer_ships_is_forgotten(tmp_path, keyed):
    folder = tmp_path / "routers" / "complexity"
    folder.mkdir(parents=True)
    (folder / "current").write_text("complexity-0badc0de 0.9\n")
    async with gateway(keyed(tmp_path)) as world:
        assert await world.threshold() != 0.9
        assert (await world.set(0.8)).status_code == 200
        assert await world.threshold() == 0.8


async def test_the_baseline_by_hash_can_be_tuned_too(tmp_path, keyed):
    async with gateway(keyed(tmp_path, routing={"router": "random"})) as world:
        assert await world.threshold() == 0.5
        assert (await world.set(0.0, "random")).status_code == 200
        assert (await world.ask())["jethro"]["pool"] == "large"
    async with gateway(keyed(tmp_path, routing={"router": "random"})) as world:
        assert await world.threshold() == 0.0
        assert (await world.undo("random")).status_code == 200
        assert await world.threshold() == 0.5
        found = (await world.http.get("/v1/admin/routers/random/curve")).json()
        assert found["curve"] is None and found["threshold"] == 0.5


@pytest.mark.parametrize("body", ["NaN", "Infinity", "-0.1", "1.1", '"0.5"', "null", "[]", "1e400", "true"])
async def test_what_is_no_threshold_is_refused(world, body):
    response = await world.http.post(
        "/v1/admin/routers/complexity/threshold",
        content=f'{{"threshold": {body}}}',
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400, response.text
    query = await world.http.get("/v1/admin/predict", params={"router": "complexity", "threshold": body})
    assert query.status_code == 400, query.text


@pytest.mark.parametrize("name", ["none", "..", "complexity@x", "'; DROP TABLE decisions; --", "a" * 3000, "mf\x00"])
async def test_an_unknown_router_is_not_found(world, name):
    path = httpx.URL(f"http://jethro/v1/admin/routers/{name.replace(chr(0), '%00')}/")
    for tail in ("threshold", "undo"):
        assert (await world.http.post(path.join(tail), json={"threshold": 0.5})).status_code == 404
    assert (await world.http.get(path.join("curve"))).status_code == 404
    predict = await world.http.get("/v1/admin/predict", params={"router": name, "threshold": "0.5"})
    assert predict.status_code == 404


async def test_a_curve_rises_with_its_share_and_holds_the_threshold_in_force(world):
    await world.set(0.2)
    found = (await world.http.get("/v1/admin/routers/complexity/curve")).json()
    curve = found["curve"]
    assert (curve["models"], curve["applies"], curve["costs"]) == (
        {"weak": "jlab-small", "strong": "jlab-large"},
        True,
        "prices",
    )
    points = curve["points"]
    assert [p["threshold"] for p in points] == sorted(p["threshold"] for p in points)
    shares = [p["share"]["value"] for p in points]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1.0
    for point in [*points, curve["current"]]:
        for figure in ("share", "quality", "cost_usd"):
            assert point[figure]["low"] <= point[figure]["value"] <= point[figure]["high"]
    assert curve["current"]["threshold"] == 0.2 == found["threshold"]


async def test_a_prediction_compares_with_what_is_in_force(world):
    own = await world.threshold()
    asked = {"router": "complexity", "threshold": str(own)}
    same = (await world.http.get("/v1/admin/predict", params=asked)).json()["calibration"]
    assert same["predicted"] == same["current"]
    assert all(value == 0 for interval in same["change"].values() for value in interval.values())
    more = (await world.http.get("/v1/admin/predict", params={**asked, "threshold": "0.01"})).json()
    change = more["calibration"]["change"]
    assert change["share"]["low"] > 0 and change["quality"]["low"] > 0


async def test_a_prediction_is_also_made_from_the_log(world):
    asked = {"router": "complexity", "threshold": "0.0"}
    before = (await world.http.get("/v1/admin/predict", params=asked)).json()
    assert before["log"] is None and "no decision" in before["log_unavailable"]
    answers = [await world.ask(text) for text in (EASY, HARD, EASY)]
    await world.ask(model="jlab-small")  # no decision of the router
    large = sum(a["jethro"]["pool"] == "large" for a in answers)
    async with asyncio.timeout(20):
        while ((found := (await world.http.get("/v1/admin/predict", params=asked)).json())["log"] or {}).get(
            "decisions"
        ) != 3:
            await asyncio.sleep(0.05)
    share = found["log"]["figures"]["share"]
    assert (share["served"]["value"], share["predicted"]["value"]) == (pytest.approx(large / 3), 1.0)
    assert found["log"]["moved"]["to_strong"] == 3 - large
    served = await world.http.get("/v1/admin/predict", params={**asked, "threshold": str(found["current_threshold"])})
    assert served.json()["log"]["moved"] == {"to_weak": 0, "to_strong": 0, "forced": 0}
