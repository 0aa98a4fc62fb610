"""One route, whatever form of its path a client sends, and its key checked for that route."""

import pytest

from serve_app.api.app import build_app
from serve_app.api.http.paths import Paths
from tests.api.fakes import services

KNOWN = ("/v1/chat/completions", "/v1/models", "/v1/models/{model_id:path}", "/v1/admin/live", "/health", "/metrics")
ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("sent", "route"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/chat/completions//", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/health/", "/health"),
        ("/health", "/health"),
        ("/", "/"),
        ("", "/"),
        ("/elsewhere/chat", "/elsewhere/chat"),
        ("/elsewhere/", "/elsewhere"),
    ],
)
def test_every_form_is_that_of_one_route(sent, route):
    assert Paths(KNOWN).canonical(sent, "POST") == route


@pytest.mark.parametrize("sent", ["/v1/v1/admin/live", "/v1//admin/live", "/admin/live", "//v1/admin/live"])
def test_no_other_form_leads_to_the_operators_routes(sent):
    assert Paths(KNOWN).canonical(sent, "POST") in (sent, "/admin/live")


@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
def test_an_empty_id_does_not_mean_all(method):
    paths = Paths(("/v1/decisions", "/v1/decisions/{decision_id}"))
    assert paths.canonical("/v1/decisions/", method) == "/v1/decisions/"


def test_a_path_of_any_length_costs_little():
    sent = "/" * 100_000
    assert Paths(KNOWN).canonical(sent, "POST") == sent


@pytest.mark.parametrize(
    "form", ["/chat/completions", "/v1/chat/completions/", "//v1//chat/completions", "/v1/v1/chat/completions"]
)
async def test_a_body_reaches_the_route_by_every_form(client, form):
    response = await client().post(f"http://jethro{form}", json=ASK)
    assert response.status_code == 200
    assert response.json()["object"] == "chat.completion"


@pytest.mark.parametrize("form", ["/chat/completions", "/v1/chat/completions/", "/v1/v1/chat/completions", "/models/"])
async def test_every_form_needs_the_key(client, form):
    response = await client(services(keys={"acme": "k"})).post(form, json=ASK)
    assert response.status_code == 401


async def test_open_routes_stay_open_in_every_form_and_others_do_not(client):
    asked = client(services(keys={"acme": "k"}))
    assert [(await asked.get(path)).status_code for path in ("/health", "/health/", "/ping", "/health/live/")] == [
        200
    ] * 4
    assert [(await asked.get(path)).status_code for path in ("/version", "/version/", "/metrics/")] == [401] * 3


async def test_the_path_below_a_mount_is_found(client):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/ai/models/", "root_path": "/ai", "headers": []}
    await build_app(services())(scope, receive, send)
    assert sent[0]["status"] == 200


async def test_what_others_ask_to_know_whether_it_is_well(client):
    asked = client()
    for response in (await asked.get("/health"), await asked.get("/ping")):
        assert (response.status_code, response.json()["ok"]) == (200, True)
    assert set((await asked.get("/version")).json()) == {"version"}


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/version", "/v1/models/jethro"])
async def test_head_and_options(client, path):
    asked = client()
    head = await asked.head(path)
    assert (head.status_code, head.content) == (200, b"")
    options = await asked.options(path)
    assert options.status_code == 204
    assert "GET" in options.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1/completions"])
async def test_options_of_a_route_that_answers(client, path):
    options = await client().options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "POST")
