"""The live check against real servers on localhost: what each fault of an upstream is called, and its fix."""

import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from serve_app.config.pools import PoolConfig
from serve_app.pools.inspection import UpstreamReport, check_upstream, check_upstreams, list_models
from tests.pools.upstream_server import END, Hold, Step, answer, event, fake_upstream, head, piece, stream, unused_url


def pool(url: str, *, model: str = "m", **engine: Any) -> PoolConfig:
    settings = {"kind": "openai", "urls": [url], "logprobs": False, "connect_timeout_s": 2, **engine}
    return PoolConfig.model_validate({"model": model, "engine": settings})


def listing(*models: str, **more: Any) -> list[Step]:
    return answer({"object": "list", "data": [{"id": name, **more} for name in models]})


def whole(content: str = "Hello", **choice: Any) -> list[Step]:
    message = {"role": "assistant", "content": content}
    return answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]})


def refusal(message: str, status: int = 400, code: str | None = None) -> list[Step]:
    return answer({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


STREAM = stream(
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]}),
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
)
LOGPROBS = whole(logprobs={"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": []}]})
ARGUMENTS = {"name": "look_up_weather", "arguments": '{"city": "Paris"}'}


async def checked(*scripts: Sequence[Step], explore: bool = False, **engine: Any) -> UpstreamReport:
    """The report of a server with these answers, in order; each was given to a request of its own."""
    async with fake_upstream(*scripts) as server:
        made = pool(server.base_url, **engine)
        report = await check_upstream("small", made, server.base_url, explore=explore, call_s=0.5, total_s=5)
        assert len(server.requests) == len(scripts)
    return report


def said(report: UpstreamReport) -> str:
    """The one finding, with its address as URL."""
    (finding,) = report.findings
    return str(finding).replace(report.url, "URL")


async def test_an_upstream_that_is_as_configured_has_no_findings():
    report = await checked(listing("m", "n", max_model_len=4096), whole(), STREAM)
    assert report.usable and report.findings == []
    assert report.models == ("m", "n") and report.max_context_tokens == 4096
    assert report.supports == {"streaming": True}
    assert report.answer_s is not None and 0 < report.answer_s < 5


async def test_declared_capabilities_are_asked_for():
    guided, tools = whole('{"ok": true}'), whole("", tool_calls=[{"id": "1", "function": ARGUMENTS}])
    async with fake_upstream(listing("m"), whole(), STREAM, LOGPROBS, guided, tools) as server:
        declared = pool(server.base_url, logprobs=True, guided=True, tools=True)
        report = await check_upstream("small", declared, server.base_url)
        bodies = [orjson.loads(request.body) for request in server.requests[1:]]
    assert report.findings == []
    assert report.supports == {"streaming": True, "logprobs": True, "guided": True, "tools": True}
    assert bodies[0] == {"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    assert bodies[1]["stream"] and bodies[2]["logprobs"] and bodies[4]["tools"]
    assert bodies[3]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("capability", "answers", "reason"),
    [
        ("logprobs", [whole()], "does not support log-probabilities: the answer has none"),
        ("logprobs", [refusal("no logprobs here")], "does not support log-probabilities: no logprobs here"),
        ("guided", [whole("Yes, I am.")], "does not support response_format: the answer is not JSON"),
        ("guided", [whole("[1]")], "does not support response_format: the answer is no JSON object"),
        ("guided", [refusal("no schemas"), refusal("no JSON")], "does not support response_format: no JSON"),
        ("tools", [refusal("no tool parser")], "does not support tools: no tool parser"),
    ],
)
async def test_a_declared_capability_that_is_not_there_is_refused(capability: str, answers: Any, reason: str):
    report = await checked(listing("m"), whole(), STREAM, *answers, **{capability: True})
    line = said(report)
    assert line.startswith(f"pools.small.engine.{capability}: URL: the upstream {reason}; set {capability}: false")
    assert not report.usable and report.supports[capability] is False


async def test_an_upstream_that_knows_json_without_schemas_is_guided():
    assert (await checked(listing("m"), whole(), STREAM, refusal("no"), whole("{}"), guided=True)).findings == []


async def test_exploring_asks_for_what_is_not_declared():
    report = await checked(listing("m"), whole(), STREAM, whole(), whole("no"), whole(), explore=True)
    assert report.supports == {"streaming": True, "logprobs": False, "guided": False, "tools": True}
    assert report.usable and said(report).endswith("which the config does not offer; set tools: true to offer it")


async def test_an_address_without_a_server_is_refused_after_one_call():
    url = unused_url()
    report = await check_upstream("large", pool(url), url, call_s=2)
    assert said(report).startswith("pools.large.engine.urls: URL: the upstream cannot be reached (Connect")
    assert said(report).endswith("; start the server, or correct the URL")


async def test_a_host_without_an_address_is_named():
    url = "http://no-such-host.invalid/v1"
    report = await check_upstream("small", pool(url), url, call_s=5)
    assert "(no address is known of the host no-such-host.invalid)" in said(report)


@pytest.mark.parametrize(
    ("status", "message", "unset"),
    [(401, "Incorrect API key provided: k-hush", False), (403, "k-hush may not", False), (401, "none", True)],
)
async def test_a_refused_key_is_never_shown(status: int, message: str, unset: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPSTREAM_KEY", "k-hush")
    env = {} if unset else {"api_key_env": "UPSTREAM_KEY"}
    report = await checked(refusal(message, status), refusal(message, status), **env)
    line = said(report)
    assert line.startswith("pools.small.engine.api_key_env: URL: ") and "k-hush" not in line
    assert ("name the environment variable" if unset else "the one in $UPSTREAM_KEY") in line


async def test_a_key_that_is_not_set_is_found_without_a_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    report = await check_upstream("small", pool("http://127.0.0.1:9/v1", api_key_env="UPSTREAM_KEY"), "http://x/v1")
    (finding,) = report.findings
    assert finding.key == "pools.small.engine.api_key_env"
    assert finding.problem == "environment variable UPSTREAM_KEY is not set"
    assert finding.fix.startswith("export it")


@pytest.mark.parametrize(("engine", "key"), [({}, "pools.small.model"), ({"upstream_model": "m"}, None)])
async def test_a_model_that_the_upstream_lacks_is_named_with_those_it_has(engine: dict[str, str], key: str | None):
    lacking = refusal("The model `m` does not exist.", 404, "model_not_found")
    line = said(await checked(listing("mm-large", "other"), lacking, **engine))
    assert line.startswith(
        f"{key or 'pools.small.engine.upstream_model'}: URL: the upstream has no model 'm'; it lists"
    )
    assert "mm-large, other: write one of its ids" in line


async def test_a_model_that_answers_and_is_not_listed_is_a_note():
    report = await checked(listing("other"), whole(), STREAM)
    assert report.usable and "which its list of models lacks; it lists other" in said(report)


@pytest.mark.parametrize("status", [404, 501])
async def test_an_upstream_without_a_list_of_models_is_no_fault(status: int):
    report = await checked(answer({}, status), whole(), STREAM)
    assert report.findings == [] and report.models is None


async def test_a_wrong_path_is_named():
    line = said(await checked(answer({"detail": "Not Found"}, 404), answer({"detail": "Not Found"}, 404)))
    assert line.startswith("pools.small.engine.urls: URL: ") and "write the base URL of its OpenAI API" in line


async def test_a_page_where_an_api_was_expected_is_named():
    page: list[Step] = [head(200, "text/html"), piece(b"<html>Welcome</html>"), END]
    line = said(await checked(page, page))
    assert line.startswith("pools.small.engine.urls: URL: the upstream answered with status 200 and text/html")
    assert "write the base URL of its OpenAI API" in line


async def test_a_rate_limit_is_named():
    assert "rate limited: too many" in said(await checked(listing("m"), refusal("too many", 429)))


async def test_an_upstream_that_hangs_is_given_up():
    start = time.monotonic()
    report = await checked(listing("m"), [Hold])
    assert time.monotonic() - start < 3
    assert said(report).startswith("pools.small.engine.urls: URL: the upstream did not answer within 0.5 s; look at")


async def test_the_whole_check_is_bounded():
    async with fake_upstream([Hold]) as server:
        start = time.monotonic()
        report = await check_upstream("small", pool(server.base_url), server.base_url, call_s=60, total_s=0.3)
    assert time.monotonic() - start < 3
    assert "the check was not finished within 0.3 s" in said(report)


async def test_an_upstream_that_cannot_stream_is_refused():
    report = await checked(listing("m"), whole(), refusal("stream is not supported"))
    assert said(report).startswith(
        "pools.small.engine.urls: URL: no streamed answer: stream is not supported; serve it"
    )


@pytest.mark.parametrize(("ahead_s", "way"), [(3600.0, "ahead of"), (-3600.0, "behind")])
async def test_a_clock_that_is_off_is_a_note(ahead_s: float, way: str):
    models = answer({"data": [{"id": "m"}]}, date=formatdate(time.time() + ahead_s, usegmt=True))
    report = await checked(models, whole(), STREAM)
    assert report.usable
    assert f" s {way} this machine's; one of the two is wrong" in said(report)
    assert report.clock_ahead_s == pytest.approx(ahead_s, abs=2)


async def test_a_clock_that_agrees_is_no_finding():
    models = answer({"data": [{"id": "m"}]}, date=formatdate(time.time(), usegmt=True))
    assert (await checked(models, whole(), STREAM)).findings == []


async def test_a_context_longer_than_the_upstream_has_is_refused():
    report = await checked(listing("m", max_model_len=2048), whole(), STREAM, max_context_tokens=8192)
    assert not report.usable
    problem = "the upstream's longest context is 2048 tokens, not 8192; set 2048"
    assert said(report) == f"pools.small.engine.max_context_tokens: URL: {problem}"


async def test_a_model_that_wants_the_newer_name_of_the_bound_is_asked_by_it():
    older = refusal("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
    async with fake_upstream(listing("m"), older, whole(), STREAM) as server:
        report = await check_upstream("small", pool(server.base_url), server.base_url)
        bodies = [orjson.loads(request.body) for request in server.requests[2:]]
    assert report.findings == []
    assert all("max_completion_tokens" in body and "max_tokens" not in body for body in bodies)


async def test_every_address_of_every_remote_pool_is_asked_in_the_configs_order():
    own = PoolConfig.model_validate({"model": "own", "engine": {"kind": "transformers", "path": "lab:small"}})
    async with fake_upstream(listing("m"), whole(), STREAM) as server:
        down = unused_url()
        two = pool(down).model_copy(update={"engine": pool(down, urls=[server.base_url, down]).engine})
        reports = await check_upstreams({"own": own, "small": two, "large": pool(server.base_url)}, call_s=2)
    assert [(r.pool, r.url) for r in reports] == [
        ("small", server.base_url),
        ("small", down),
        ("large", server.base_url),
    ]
    assert not reports[1].usable


async def test_a_query_of_the_url_is_in_no_finding():
    url = f"{unused_url()}?key=k-hush"
    report = await check_upstream("small", pool(url), url, call_s=2)
    assert "k-hush" not in str(report.findings[0])


async def test_models_are_listed_for_who_does_not_know_them():
    async with fake_upstream(listing("a", "b")) as server:
        assert await list_models("small", pool(server.base_url), server.base_url) == ("a", "b")
