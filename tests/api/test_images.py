"""Images over HTTP: given to pools that see, kept from those that do not, and found nowhere afterwards."""

import base64
import io
import json

import pytest

from serve_app.observability.access_log import line
from serve_app.types import Capabilities
from tests.api.fakes import FakePool, config, services

BYTES = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"picture of a secret" * 40).decode()
PNG = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BYTES}", "detail": "low"}}
LINK = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
TEXT = {"type": "text", "text": "what is it?"}


def blind():
    return FakePool()


def seeing(name="large", *, urls=True):
    can = Capabilities(guided=True, tools=True, vision=True, image_urls=urls)
    return FakePool(name, f"lab-{name}", capabilities=can)


async def ask(http, *parts, model="jethro", **more):
    body = {"model": model, "messages": [{"role": "user", "content": list(parts)}], **more}
    return await http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pool_that_cannot_see_is_skipped_with_the_reason(client, stream):
    small, large = blind(), seeing()
    answer = await ask(client(services(small=small, large=large)), TEXT, PNG, LINK, stream=stream)
    assert answer.status_code == 200 and answer.headers["x-jethro-pool"] == "large"
    assert "but lab-small cannot see images" in answer.text
    assert not small.queries
    assert large.queries[0].messages[0].to_openai()["content"] == [TEXT, PNG, LINK]


async def test_a_pool_that_fails_is_not_replaced_by_one_that_cannot_see(client):
    small, large = blind(), seeing()
    large.error = ConnectionError("down")
    answer = await ask(client(services(small=small, large=large)), TEXT, PNG)
    assert answer.status_code >= 500 and not small.queries


@pytest.mark.parametrize("model", ["jethro", "lab-small"])
async def test_where_none_sees_the_part_is_named(client, model):
    answer = await ask(client(services()), TEXT, PNG, model=model)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "messages.0.content.1.image_url"
    assert "cannot see images" in error["message"] and BYTES[:20] not in answer.text


async def test_a_pool_that_fetches_nothing_gets_bytes_alone(client):
    large = seeing(urls=False)
    http = client(services(large=large))
    assert (await ask(http, PNG)).status_code == 200
    answer = await ask(http, PNG, LINK, model="lab-large")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.0.content.1.image_url")
    assert "data: URI" in answer.json()["error"]["message"]


async def test_nothing_that_is_kept_holds_an_image(client):
    made = services(large=seeing(), tree=config(store={"keep_prompts": True}))
    http = client(made)
    shown = await ask(http, TEXT, PNG)
    [record] = made.store.records.values()
    assert record.prompt == "what is it?"
    kept = io.StringIO()
    json.dump(line(record, ""), kept, default=str)
    metrics = (await http.get("/metrics")).text
    for text in (kept.getvalue(), repr(record), metrics, shown.text, str(shown.headers)):
        assert BYTES[8:40] not in text and "pictures.example" not in text


async def test_route_alone_decides_by_images_too(client):
    http = client(services(large=seeing()))
    body = {"model": "jethro", "messages": [{"role": "user", "content": [TEXT, LINK]}]}
    assert (await http.post("/v1/route", json=body)).json()["pool"] == "large"


async def test_a_body_over_the_limit_is_refused_before_it_is_read(client):
    http = client(services(large=seeing(), tree=config(limits={"body_bytes": 500})))
    assert (await ask(http, PNG)).status_code == 413
