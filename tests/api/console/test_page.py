"""The console over HTTP: who gets it, with which headers, and what is not served."""

import pytest

from serve_app.console.assets import POLICY, assets
from tests.api.fakes import config, services

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_that_opens_the_endpoint_gets_the_console(client):
    for method in ("GET", "HEAD"):
        response = await client().request(method, "/", headers=BROWSER)
        assert (response.status_code, response.headers["location"]) == (307, "console")
        assert response.headers["vary"] == "accept"


@pytest.mark.parametrize(
    ("keys", "method", "headers", "status"),
    [
        ({}, "GET", {"accept": "*/*"}, 404),
        ({}, "GET", {"accept": "application/json"}, 404),
        ({}, "POST", BROWSER, 404),
        ({"acme": "k"}, "GET", {"accept": "*/*"}, 401),
        ({"acme": "k"}, "GET", {"authorization": "Bearer k"}, 404),
    ],
)
async def test_others_get_what_they_got(client, keys, method, headers, status):
    response = await client(services(keys=keys)).request(method, "/", headers=headers)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize("path", sorted(assets()))
async def test_every_file_is_served_without_a_key(client, path):
    response = await client(services(keys={"acme": "k"})).get(path)
    asset = assets()[path]
    assert (response.status_code, response.content) == (200, asset.body)
    assert response.headers["content-type"] == asset.media_type
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["etag"] == asset.etag


async def test_head_and_validation(client):
    http = client()
    head = await http.head("/console/main.js")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(assets()["/console/main.js"].body)
    held = await http.get("/console/main.js", headers={"if-none-match": head.headers["etag"]})
    assert (held.status_code, held.content) == (304, b"")
    assert held.headers["content-security-policy"] == POLICY
    assert (await http.get("/console/main.js", headers={"if-none-match": '"old"'})).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/console/",
        "/console/index.html",
        "/console/no.js",
        "/console/../pyproject.toml",
        "/console/%2e%2e/assets.py",
        "/console/..%2fassets.py",
        "/console/%2e%2e%2f%2e%2e%2fconfig%2ftree.py",
        "/console//etc/passwd",
        "/console/vendor/uplot/LICENSE",
        "/console/views",
        "/console/main.js%00.css",
    ],
)
async def test_nothing_else_is_served(client, path):
    response = await client().get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_route"


async def test_nothing_is_written(client):
    response = await client().post("/console", content=b"x")
    assert (response.status_code, response.json()["error"]["type"]) == (405, "invalid_request_error")


async def test_it_can_be_turned_off(client):
    http = client(services(tree=config(server={"expose_console": False})))
    assert (await http.get("/console")).status_code == 404
    assert (await http.get("/console/main.js")).status_code == 404
    assert (await http.get("/", headers=BROWSER)).status_code == 404


async def test_no_key_is_in_any_file(client):
    http = client(services(keys={"acme": "caller-key-7d1"}, metrics_key="metrics-key-7d1"))
    for path in assets():
        assert b"key-7d1" not in (await http.get(path)).content
