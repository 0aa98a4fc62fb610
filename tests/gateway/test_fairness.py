"""A Gateway's places among tenants."""

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import Overloaded
from serve_app.gateway.fairness import FairLimiter
from tests.api.conftest import Client
from tests.api.fakes import services


def fill(places: FairLimiter, *tenants: str, rounds: int = 1000) -> dict[str, int]:
    """Who holds how many when all ask again and again and nobody leaves."""
    held = dict.fromkeys(tenants, 0)
    for _ in range(rounds):
        for tenant in tenants:
            try:
                places.enter(tenant)
            except Overloaded as refusal:
                assert refusal.retry_after_s == 2.0
            else:
                held[tenant] += 1
    return held


def test_alone_a_tenant_gets_its_share() -> None:
    assert fill(FairLimiter(100, 0.75, {}, 2.0), "a") == {"a": 75}


def churn(places: FairLimiter, held: dict[str, int], rounds: int = 6000) -> dict[str, float]:
    """Mean places of each when all ask all the time and requests end at random."""
    rng = random.Random(0)
    mean = dict.fromkeys(held, 0.0)
    for _ in range(rounds):
        for tenant in [*held, *held, *held]:  # far more than ends
            with contextlib.suppress(Overloaded):
                places.enter(tenant)
                held[tenant] += 1
        for _ in held:
            leaving = rng.choice([t for t, n in held.items() for _ in range(n)])
            places.leave(leaving)
            held[leaving] -= 1
        for tenant in held:
            mean[tenant] += held[tenant] / rounds
    return mean


def test_who_comes_late_finds_a_place_and_in_the_end_all_are_equal() -> None:
    places = FairLimiter(100, 0.75, {}, 2.0)
    held = fill(places, "greedy")
    held |= fill(places, "late")
    assert held["greedy"] == 75 and held["late"] > 15
    mean = churn(places, held)
    assert mean["late"] == pytest.approx(mean["greedy"], rel=0.1)
    assert mean["late"] > 30


def test_weights_are_shares() -> None:
    places = FairLimiter(100, 0.5, {"heavy": 2.0}, 2.0)
    mean = churn(places, fill(places, "heavy", "light"))
    assert mean["heavy"] == pytest.approx(2 * mean["light"], rel=0.1)


def test_without_tenants_or_a_share_nobody_is_bounded() -> None:
    for places, tenant in ((FairLimiter(), "a"), (FairLimiter(10, 0.5, {}, 2.0), None)):
        for _ in range(50):
            places.enter(tenant)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=200), st.floats(0.05, 0.95))
def test_places_are_never_overdrawn_and_never_lost(steps: list[tuple[str, bool]], share: float) -> None:
    places, held = FairLimiter(12, share, {}, 1.0), dict.fromkeys("abc", 0)
    for tenant, coming in steps:
        if coming:
            try:
                places.enter(tenant)
                held[tenant] += 1
            except Overloaded:
                assert held[tenant] >= 1  # a tenant without any is always let in
        elif held[tenant]:
            places.leave(tenant)
            held[tenant] -= 1
    assert sum(held.values()) <= 12 + len(held)
    assert places._free == 12 - sum(held.values())


async def test_a_refused_request_is_told_when_to_come_again_and_counts_as_wanted(client: Client) -> None:
    parts = replace(services(keys={"team": "k"}), limiter=FairLimiter(2, 0.4, {}, 3.0))
    parts.limiter.enter("team")
    body = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
    asked = client(parts, authorization="Bearer k")
    refused = await asked.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json()["error"]["code"] == "tenant_share"
    assert parts.demand.rates(())["refused_per_s"] > 0
    parts.limiter.leave("team")
    assert (await asked.post("/v1/chat/completions", json=body)).status_code == 200
