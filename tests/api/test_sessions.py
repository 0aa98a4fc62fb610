"""A tool loop stays with its pool over HTTP, moves when that fails, and never past what the request may reach."""

import httpx
import pytest

from serve_app.config.strategies import RoutingConfig
from serve_app.errors import PoolUnavailable
from serve_app.routing.sessions import Sessions
from serve_app.types import Capabilities
from tests.api.fakes import FakePool, services

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
LONG = "x" * 200


def parts(small, large, **routing):
    def change(made):
        made["sessions"] = Sessions(RoutingConfig(**routing))

    return services(small=small, large=large, change=change)


def called(number):
    call = {"id": f"call_{number}", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        # long enough for the router to want the strong pool
        {"role": "tool", "tool_call_id": call["id"], "content": LONG},
    ]


class Talk:
    """A conversation whose history grows as an agent's does."""

    def __init__(self, http: httpx.AsyncClient, **headers: str) -> None:
        self.http, self.headers, self.messages, self.turns = http, headers, [{"role": "user", "content": "hi"}], 0

    async def turn(self, model="jethro", **more):
        body = {"model": model, "messages": self.messages, "tools": [TOOL], **more}
        answer = await self.http.post("/v1/chat/completions", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        self.messages += called(self.turns)
        self.turns += 1
        return answer

    async def pools(self, turns):
        return [(await self.turn()).headers["x-jethro-pool"] for _ in range(turns)]


def pools_of_two():
    return FakePool(), FakePool("large", "lab-large")


async def test_five_turns_of_tools_stay_with_the_pool_that_began(client):
    small, large = pools_of_two()
    talk = Talk(client(parts(small, large)))
    assert await talk.pools(5) == ["small"] * 5
    assert not large.queries
    shown = (await talk.turn()).json()["jethro"]
    assert shown["reason"].startswith("the conversation stays with lab-small (win rate 0.020 < threshold 0.500")


async def test_without_stickiness_the_same_turns_move(client):
    assert await Talk(client(parts(*pools_of_two(), stickiness="off"))).pools(3) == ["small", "large", "large"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pool_that_fails_is_left_and_the_loop_stays_with_the_other(client, stream):
    small, large = pools_of_two()
    talk = Talk(client(parts(small, large)))
    assert await talk.pools(2) == ["small", "small"]
    small.error = PoolUnavailable("down")
    answer = await talk.turn(stream=stream)
    # the headers of a stream go out with its first byte, when it is known who answers
    assert answer.headers["x-jethro-pool"] == "large"
    assert "fallback to lab-large" in answer.text
    small.error = None
    assert await talk.pools(2) == ["large", "large"]


async def test_gateways_without_shared_memory_agree(client):
    small, large = pools_of_two()
    talk = Talk(client(parts(small, large)))
    pools = []
    for _ in range(4):
        pools += await talk.pools(1)
        talk.http = client(parts(small, large))
    assert pools == ["small"] * 4


async def test_a_loop_never_stays_with_a_pool_that_cannot(client):
    small, large = pools_of_two()
    talk = Talk(client(parts(small, large)))
    await talk.pools(2)
    small.capabilities = Capabilities(tools=False)
    answer = await talk.turn()
    assert answer.headers["x-jethro-pool"] == "large"
    assert "but lab-small does not support tools" in answer.json()["jethro"]["reason"]


async def test_a_named_model_is_not_overridden(client):
    talk = Talk(client(parts(*pools_of_two())))
    await talk.pools(2)
    assert (await talk.turn("lab-large")).headers["x-jethro-pool"] == "large"
    assert (await talk.turn()).headers["x-jethro-pool"] == "small", "and has not moved the conversation"


async def test_tenants_do_not_share_a_session(client):
    made = parts(*pools_of_two(), stickiness="session")
    object.__setattr__(made, "keys", {"a": "key-a", "b": "key-b"})
    http = client(made)
    short = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
    long = {"model": "jethro", "messages": [{"role": "user", "content": LONG}]}
    for body, key, pool in ((short, "a", "small"), (long, "b", "large")):
        headers = {"authorization": f"Bearer key-{key}", "x-session-id": "s"}
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.headers["x-jethro-pool"] == pool


async def test_the_decision_alone_knows_the_conversation(client):
    http = client(parts(*pools_of_two()))
    talk = Talk(http)
    await talk.pools(2)
    body = {"model": "jethro", "messages": talk.messages, "tools": [TOOL]}
    assert (await http.post("/v1/route", json=body)).json()["pool"] == "small"


async def test_decisions_count_why(client):
    made = parts(*pools_of_two())
    await Talk(client(made)).pools(3)
    causes = [record.decision.cause for record in made.store.records.values()]
    assert causes == ["score_below", "session", "session"]


async def test_a_session_id_out_of_bounds_is_refused(client):
    answer = await client(parts(*pools_of_two())).post(
        "/v1/chat/completions",
        json={"model": "jethro", "messages": [{"role": "user", "content": "hi"}]},
        headers={"x-session-id": "x" * 300},
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-session-id")


@pytest.mark.parametrize(
    ("error", "retry"),
    [(PoolUnavailable("down", retry_after_s=3), "true"), (None, "false")],
)
async def test_errors_say_whether_a_retry_helps(client, error, retry):
    small, large = pools_of_two()
    small.error = large.error = error
    model = "jethro" if error else "nobody"
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    answer = await client(parts(small, large)).post("/v1/chat/completions", json=body)
    assert answer.headers["x-should-retry"] == retry
    assert ("retry-after" in answer.headers) == (retry == "true")


@pytest.mark.parametrize(("sent", "kept"), [("2", 2), ("0", 0), ("100000", 99), ("x", 0), ("-1", 0), ("9" * 40, 0)])
async def test_the_count_of_attempts_is_read_within_bounds(client, sent, kept):
    made = parts(*pools_of_two())
    body = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
    http = client(made)
    answer = await http.post("/v1/chat/completions", json=body, headers={"x-stainless-retry-count": sent})
    assert answer.status_code == 200
    [record] = made.store.records.values()
    assert record.retry == kept
    metrics = (await http.get("/metrics")).text
    assert f"jethro_client_retries_total {1.0 if kept else 0.0}" in metrics
