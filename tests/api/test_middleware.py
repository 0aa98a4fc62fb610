import logging
import socket
from dataclasses import replace

import pytest

from serve_app.api.app import build_app
from serve_app.api.dialects.base import Speakers
from serve_app.api.dialects.openai import OpenAIErrors
from serve_app.api.middleware import GatewayMiddleware
from serve_app.observability.access_log import NoLog
from serve_app.observability.process_log import RequestIdFilter
from serve_app.types import REQUEST_ID
from tests.api.fakes import DictStore, FakePool, config, services
from tests.api.server import serving

CHAT = "/v1/chat/completions"
ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
KEYED = {"keys": {"acme": "k1", "umbrella": "k2"}}
ROUTES = [("POST", CHAT), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("POST", "/v1/route"), ("GET", "/none")]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", CHAT), ("GET", "/health/live")])
async def test_a_request_id_is_echoed_or_made(client, method, path):
    http = client()
    given = await http.request(method, path, json=ASK, headers={"x-request-id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    made = await http.request(method, path, json=ASK, headers={"x-request-id": "not sane\t"})
    assert made.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_nothing_is_told(client, method, path):
    parts = services(**KEYED)
    response = await client(parts).request(method, path, json=ASK)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "missing_api_key"
    assert b"jethro_unauthorized_total 1.0" in parts.recorder.text()
    assert "x-request-id" in response.headers


async def test_with_a_key(client):
    http = client(services(**KEYED), authorization="Bearer k2")
    assert (await http.post(CHAT, json=ASK)).status_code == 200
    assert (await http.get("/v1/models")).status_code == 200
    assert (await client(services(**KEYED), authorization="Bearer k3").get("/v1/models")).status_code == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json"])
async def test_open_routes(client, path):
    assert (await client(services(**KEYED)).get(path)).status_code == 200


async def test_metrics_have_a_key_of_their_own_where_keys_are_set(client):
    assert (await client().get("/metrics")).status_code == 200
    closed = await client(services(**KEYED), authorization="Bearer k1").get("/metrics")
    assert closed.status_code == 401 and "server.metrics_key_env" in closed.json()["error"]["message"]
    keyed = services(**KEYED, metrics_key="m")
    statuses = [(await client(keyed, authorization=f"Bearer {key}").get("/metrics")).status_code for key in ("m", "k1")]
    assert statuses == [200, 401]
    assert (await client(keyed, authorization="Bearer m").get("/v1/models")).status_code == 401


async def test_docs_can_be_hidden(client):
    http = client(services(tree=config(server={"expose_docs": False})))
    assert [(await http.get(path)).status_code for path in ("/docs", "/openapi.json")] == [404, 404]


async def test_unknown_routes_and_methods_have_error_objects(client):
    http = client()
    missing = await http.get("/v1/nothing?x=%ff&y[]=%00")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_route")
    for method in ("GET", "PUT", "DELETE", "PATCH", "BREW"):
        wrong = await http.request(method, CHAT)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert wrong.json()["error"]["code"] == "method_not_allowed"


async def test_head_and_options(client):
    http = client()
    assert (await http.head("/v1/models")).status_code == 200
    options = await http.options(CHAT)
    assert (options.status_code, options.headers["allow"], options.content) == (204, "POST", b"")


@pytest.mark.parametrize(
    "path", ["/v1/models/%2e%2e/x", "/%00", "/x//v1/models", "/v1/decisions/%ff", "/" + "a" * 5000]
)
async def test_junk_in_paths_is_not_found(client, path):
    response = await client().get(path)
    assert response.status_code == 404
    assert response.json()["error"]["message"]


async def test_the_app_can_live_under_a_prefix():
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/ai/v1/models", "root_path": "/ai", "headers": []}
    await build_app(services())(scope, receive, send)
    assert sent[0]["status"] == 200


async def test_internal_headers_of_callers_do_not_come_back(client):
    response = await client().post(CHAT, json=ASK, headers={"x-jethro-pool": "large", "x-jethro-decision-id": "mine"})
    assert response.headers.get_list("x-jethro-pool") == ["small"]
    assert response.headers.get_list("x-jethro-decision-id") != ["mine"]


async def test_an_error_of_ours_on_a_cold_route_is_a_500_and_logged_once(client, caplog):
    def broken(parts):
        parts["catalogue"].models = None

    response = await client(services(change=broken)).get("/v1/models", headers={"x-request-id": "abc"})
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert response.headers["x-request-id"] == "abc"
    assert caplog.text.count("request abc to '/v1/models' failed") == 1


async def test_what_is_not_http_passes_through():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    speakers = Speakers(OpenAIErrors(), {})
    wrapped = GatewayMiddleware(app, services=services(), hot={}, open_paths=frozenset(), speakers=speakers, routes=())
    await wrapped({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    "head",
    [
        "content-length: 100000000000\r\n",
        "content-length: 5000000\r\nexpect: 100-continue\r\n",
        "transfer-encoding: chunked\r\n",
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/feedback", "/v1/streams", "/health/live", "/docs"])
def test_an_unauthenticated_body_is_not_read_and_the_connection_is_closed(head, path):
    with serving(lambda: services(**KEYED)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{head}\r\n"
            connection.sendall(request.encode())
            answer = b""
            while part := connection.recv(65536):  # until the server closes
                answer += part
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 405 ")) and b"100 Continue" not in answer
    assert b"connection: close" in answer and (b"missing_api_key" in answer or b"method_not_allowed" in answer)


async def test_a_refusal_without_a_body_keeps_the_connection(client):
    for headers in ({}, {"content-length": "0"}):
        response = await client(services(**KEYED)).get("/v1/models", headers=headers)
        assert response.status_code == 401 and "connection" not in response.headers


async def test_one_id_everywhere(client, caplog):
    pool, store, logged = FakePool(), DictStore(), []

    class Failing(FakePool):
        async def complete(self, query, call):
            logging.getLogger("jethro.pools").warning("tried")
            raise ValueError("a fault of ours")

    class Lines(NoLog):
        def write(self, record):
            logged.append(record.request_id)

    caplog.handler.addFilter(RequestIdFilter())
    try:
        parts = replace(services(small=pool), store=store, access_log=Lines())
        for sent, kept in (("mine", True), ("x" * 128, True), ("x" * 129, False), ("caf\xe9", False), ("a b", False)):
            response = await client(parts).post(CHAT, json=ASK, headers={"x-request-id": sent.encode("latin-1")})
            seen = response.headers["x-request-id"]
            assert (seen == sent) is kept and len(seen) <= 128
            (stored,) = store.records.values()
            assert (stored.request_id, pool.calls[-1].request_id, logged[-1]) == (seen, seen, seen)
            store.records.clear()
        failed = await client(services(small=Failing())).post(CHAT, json=ASK, headers={"x-request-id": "broken"})
        assert failed.status_code == 500
        lines = {r.getMessage(): r.request_id for r in caplog.records if r.name.startswith("jethro.")}
        assert lines == {"tried": "broken", "request broken failed": "broken"}
    finally:
        caplog.handler.filters.clear()
    assert REQUEST_ID.get() is None
