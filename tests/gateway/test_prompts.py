"""Several prompts in one request, and prompts as token ids."""

import asyncio

import orjson
import pytest

from serve_app.errors import Overloaded
from tests.api.fakes import USAGE, FakePool, config, services

COMPLETIONS = "/v1/completions"


class EchoPool(FakePool):
    """Says each prompt back, a letter a frame."""

    async def complete(self, query, call):
        self.words = tuple(query.prompt or "?")
        return await super().complete(query, call)

    def _frames(self, query, call):
        self.words = tuple(query.prompt or "?")
        return super()._frames(query, call)


def echoing(**more):
    return services(small=EchoPool(**more))


def ask(prompt, **more):
    return {"model": "lab-small", "prompt": prompt, **more}


def events_of(text: str):
    return [orjson.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_choices_come_by_prompt_and_then_by_choice(client):
    answer = (await client(echoing()).post(COMPLETIONS, json=ask(["ab", "cd", "e"], n=2))).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "ab"), (1, "ab"), (2, "cd"), (3, "cd"), (4, "e"), (5, "e")
    ]  # fmt: skip
    assert answer["usage"] == {kind: 3 * tokens for kind, tokens in USAGE.items()}
    assert len(answer["jethro"]["steps"]) == 3
    assert answer["id"] == f"cmpl-{answer['jethro']['decision_id']}"


async def test_a_stream_of_several_prompts_agrees_with_the_whole(client):
    parts = echoing()
    body = ask(["ab", "cde"], n=2, stream=True, stream_options={"include_usage": True})
    response = await client(parts).post(COMPLETIONS, json=body)
    events = events_of(response.text)
    texts = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "ab", 1: "ab", 2: "cde", 3: "cde"}
    finishes = sorted(c["index"] for e in events for c in e["choices"] if c["finish_reason"])
    assert finishes == [0, 1, 2, 3]
    assert len({event["id"] for event in events}) == 1
    assert [e["usage"] for e in events if e.get("usage")] == [{kind: 2 * tokens for kind, tokens in USAGE.items()}]
    assert response.text.endswith("data: [DONE]\n\n")


async def test_each_prompt_is_a_query_of_its_own(client):
    pool = EchoPool()
    await client(services(small=pool)).post(COMPLETIONS, json=ask(["ab", "cd"]))
    assert [q.text for q in pool.queries] == ["ab", "cd"]
    assert {call.decision_id for call in pool.calls} == {pool.calls[0].decision_id}
    assert len({call.id for call in pool.calls}) == 2


async def test_one_that_fails_fails_the_request_with_its_status_and_ends_the_others(client):
    class Choosy(EchoPool):
        async def complete(self, query, call):
            if query.prompt == "bad":
                raise Overloaded("full")
            return await super().complete(query, call)

    pool = Choosy(gate=asyncio.Semaphore(0))
    response = await client(services(small=pool)).post(COMPLETIONS, json=ask(["ab", "bad", "cd"]))
    assert response.status_code == 429
    assert pool.running == 0
    assert pool.cut == 2


async def test_a_list_takes_no_more_than_a_few_places_at_once(client):
    most = 0

    class Watched(EchoPool):
        async def complete(self, query, call):
            nonlocal most
            self.running += 1
            most = max(most, self.running)
            await asyncio.sleep(0.001)
            self.running -= 1
            return await super().complete(query, call)

    response = await client(services(small=Watched())).post(COMPLETIONS, json=ask([str(i) for i in range(100)]))
    assert [c["text"] for c in response.json()["choices"]] == [str(i) for i in range(100)]
    assert 1 < most <= 16


async def test_a_list_of_one_is_one_prompt(client):
    answer = (await client(echoing()).post(COMPLETIONS, json=ask(["ab"]))).json()
    assert [c["text"] for c in answer["choices"]] == ["ab"]
    assert "steps" not in answer["jethro"]


async def test_more_prompts_than_allowed_are_refused_by_number(client):
    parts = services(tree=config(limits={"prompts": 2}))
    response = await client(parts).post(COMPLETIONS, json=ask(["a", "b", "c"]))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert "at most 2" in response.json()["error"]["message"]


async def test_token_ids_reach_the_model_that_is_named(client):
    pool = EchoPool()
    asked = client(services(small=pool))
    await asked.post(COMPLETIONS, json=ask([5, 6, 7]))
    await asked.post(COMPLETIONS, json=ask([[1], [2, 3]]))
    assert sorted(list(q.prompt_ids) for q in pool.queries) == [[1], [2, 3], [5, 6, 7]]


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]]])
async def test_token_ids_need_a_model_that_they_are_of(client, prompt):
    response = await client().post(COMPLETIONS, json={"model": "jethro", "prompt": prompt})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt")
    assert "name that model" in error["message"]


@pytest.mark.parametrize(
    "prompt", [[], [""], [1, "a"], [[1], "a"], [[]], [-1], [1.5], [True], [None], {"a": 1}, 5, [[[1]]]]
)
async def test_what_is_no_prompt_is_refused(client, prompt):
    response = await client().post(COMPLETIONS, json=ask(prompt))
    assert response.status_code == 400
    assert response.json()["error"]["param"].split(".")[0] == "prompt"
