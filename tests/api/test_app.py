"""Web pages of other origins: none unless they are configured, and never without the key."""

import pytest
from pydantic import ValidationError

from serve_app.config.base import CorsConfig
from tests.api.fakes import config, services

PAGE = "https://app.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-retry-count",
}
ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
ALLOW = "access-control-allow-origin"


def allowing(*origins: str, **keys: str):
    return services(keys=keys, tree=config(server={"cors": {"origins": list(origins)}}))


async def test_no_page_may_call_by_default(client):
    asked = client()
    response = await asked.options("/v1/chat/completions", headers=PREFLIGHT)
    assert ALLOW not in response.headers
    assert ALLOW not in (await asked.post("/v1/chat/completions", json=ASK, headers={"origin": PAGE})).headers


async def test_a_page_of_a_configured_origin_may_call_and_reads_our_headers(client):
    asked = client(allowing(PAGE, acme="k"))
    leave = await asked.options("/v1/chat/completions", headers=PREFLIGHT)
    assert (leave.status_code, leave.headers[ALLOW]) == (200, PAGE)
    assert "authorization" in leave.headers["access-control-allow-headers"]
    headers = {"origin": PAGE, "authorization": "Bearer k"}
    response = await asked.post("/v1/chat/completions", json=ASK, headers=headers)
    assert (response.status_code, response.headers[ALLOW]) == (200, PAGE)
    assert "x-jethro-pool" in response.headers["access-control-expose-headers"]


async def test_a_page_still_needs_the_key_and_can_read_why(client):
    response = await client(allowing(PAGE, acme="k")).post("/v1/chat/completions", json=ASK, headers={"origin": PAGE})
    assert (response.status_code, response.headers[ALLOW]) == (401, PAGE)


async def test_other_origins_get_no_leave(client):
    asked = client(allowing(PAGE))
    response = await asked.options("/v1/chat/completions", headers={**PREFLIGHT, "origin": "https://evil.example"})
    assert response.status_code == 400
    assert ALLOW not in response.headers


async def test_a_stream_reaches_a_page(client):
    async with client(allowing("*")).stream(
        "POST", "/v1/chat/completions", json={**ASK, "stream": True}, headers={"origin": PAGE}
    ) as response:
        assert response.headers[ALLOW] == "*"
        assert (await response.aread()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://a.com/x", "ftp://a.com", ""]
)
def test_what_is_no_origin_stops_the_start(origin):
    with pytest.raises(ValidationError, match="is no origin"):
        CorsConfig(origins=(origin,))
