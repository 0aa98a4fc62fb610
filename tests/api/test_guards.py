"""Privacy classes and guards through the API: headers, refusals in OpenAI's shape, metrics, and what is not allowed."""

from dataclasses import replace
from typing import Any

import openai
import orjson
import pytest

from serve_app.errors import PoolUnavailable
from serve_app.gateway.services import Services, placed_pools
from serve_app.guards.personal.detector import PersonalData
from serve_app.placement.policy import PlacementPolicy
from tests.api.fakes import FakeCatalogue, FakePool, config, services
from tests.api.server import serving
from tests.guards.fakes import guards

CHAT = "/v1/chat/completions"
WORDS = {"name": "words", "kind": "patterns", "patterns": [{"category": "code", "words": ["owl"]}]}


def parts(small: FakePool | None = None, large: FakePool | None = None, **placement: Any) -> Services:
    """`small` is local, `large` public."""
    tree = config(placement=placement).model_dump()
    tree["pools"]["large"]["place"] = "public"
    checked = config(pools=tree["pools"], placement=placement)
    pools = {"small": small or FakePool(), "large": large or FakePool("large", "lab-large")}

    def change(made: dict[str, Any]) -> None:
        placed = placed_pools(checked, pools)
        personal = PersonalData(checked.placement.personal_data, placed)
        made.update(pools=placed, catalogue=FakeCatalogue(placed), placement=PlacementPolicy(checked, personal))  # type: ignore[arg-type]

    return services(tree=checked, change=change)


def ask(text: str = "x", model: str = "jethro", **rest: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **rest}


HARD = "long " * 40


@pytest.mark.parametrize(
    ("header", "text", "pool", "privacy"),
    [
        (None, HARD, "large", "any"),
        ("any", HARD, "large", "any"),
        ("private", HARD, "small", "private"),
        ("LOCAL", HARD, "small", "local"),
        (None, f"{HARD} a@b.io", "small", "private"),
        ("any", f"{HARD} a@b.io", "small", "private"),
    ],
)
async def test_the_class_decides_who_answers(
    client: Any, header: str | None, text: str, pool: str, privacy: str
) -> None:
    made = parts(detected="private")
    headers = {"x-jethro-privacy": header} if header else {}
    answer = await client(made).post(CHAT, json=ask(text), headers=headers)
    assert (answer.headers["x-jethro-pool"], answer.headers["x-jethro-privacy"]) == (pool, privacy)
    jethro = answer.json()["jethro"]
    assert (jethro["privacy"], jethro["place"]) == (privacy, "local" if pool == "small" else "public")
    assert jethro["guards"] == ({"placement.email": 1} if "@" in text else {})
    if "@" in text:
        metrics = made.recorder.text().decode()
        assert 'jethro_guard_findings_total{category="email",guard="placement"} 1.0' in metrics


async def test_a_model_that_may_not_see_it_is_a_403(client: Any) -> None:
    large = FakePool("large", "lab-large")
    answer = await client(parts(large=large)).post(
        CHAT, json=ask(model="lab-large"), headers={"x-jethro-privacy": "private"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (403, "placement_forbidden", "permission_error")
    assert "lab-large may not see this request" in error["message"] and not large.queries


async def test_an_allowed_pool_that_is_down_is_a_503_and_no_other_is_tried(client: Any) -> None:
    large = FakePool("large", "lab-large")
    made = parts(small=FakePool(error=PoolUnavailable("none")), large=large)
    answer = await client(made).post(CHAT, json=ask(), headers={"x-jethro-privacy": "local"})
    assert answer.status_code == 503 and not large.queries


async def test_a_misspelt_class_is_refused(client: Any) -> None:
    answer = await client(parts()).post(CHAT, json=ask(), headers={"x-jethro-privacy": "locl"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-jethro-privacy")
    twice = [("x-jethro-privacy", "any"), ("x-jethro-privacy", "local")]
    answer = await client(parts()).post(CHAT, json=ask(HARD), headers=twice)
    assert answer.headers["x-jethro-privacy"] == "local"


async def test_a_decision_without_an_answer_is_placed_too(client: Any) -> None:
    answer = await client(parts()).post("/v1/route", json=ask(HARD), headers={"x-jethro-privacy": "local"})
    found = answer.json()
    assert (found["pool"], found["privacy"], found["place"]) == ("small", "local", "local")
    assert "lab-large may not see the request" in found["reason"]


def guarded_parts(*chain: Any, **options: Any) -> Services:
    return replace(services(small=FakePool(words=("the ", "o", "wl ", "flies"))), guards=guards(*chain, **options))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_a_guard_stops_is_openais_error(client: Any, stream: bool) -> None:
    made = guarded_parts(WORDS, message="Not here.")
    answer = await client(made).post(CHAT, json=ask("an owl", stream=stream))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["message"]) == (400, "content_filter", "Not here.")
    metrics = made.recorder.text().decode()
    assert 'jethro_guard_findings_total{category="code",guard="words"} 1.0' in metrics
    assert 'jethro_guard_refusals_total{where="input"} 1.0' in metrics
    assert not made.pools["small"].queries  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_choice_of_a_stopped_request_is_refused(client: Any, stream: bool) -> None:
    made = guarded_parts(WORDS, refusal="answer", message="Not here.")
    answer = await client(made).post(CHAT, json=ask("an owl", n=3, stream=stream))
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    bodies = [orjson.loads(line) for line in lines] if stream else [answer.json()]
    choices = [choice for body in bodies for choice in body["choices"]]
    said = [
        [c.get("delta", c.get("message")).get("content") or "" for c in choices if c["index"] == i] for i in (0, 1, 2)
    ]
    assert ["".join(pieces) for pieces in said] == ["Not here."] * 3
    assert sorted(c["index"] for c in choices if c["finish_reason"] == "content_filter") == [0, 1, 2]


async def test_official_clients_see_refusals_as_they_expect() -> None:
    made = guarded_parts(WORDS, refusal="answer", message="Not here.")
    with serving(lambda: made) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as http:
            said = await http.chat.completions.create(**ask("an owl"))
            assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("Not here.", "content_filter")
            stream = await http.chat.completions.create(**ask("an owl", stream=True))
            chunks = [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Not here."
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"
            whole = await http.chat.completions.create(**ask("hi"))
            assert (whole.choices[0].message.content, whole.choices[0].message.refusal) == (None, "Not here.")
            assert whole.choices[0].finish_reason == "content_filter"
            stream = await http.chat.completions.create(**ask("hi", stream=True))
            chunks = [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "the "
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"
            assert chunks[-1].model_extra["jethro"]["guards"] == {"words.code": 1}  # type: ignore[index]


async def test_logprobs_would_show_what_is_held_back(client: Any) -> None:
    answer = await client(guarded_parts(WORDS)).post(CHAT, json=ask(logprobs=True))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
