import asyncio

import pytest

from serve_app.engines.app import build_replica_app
from serve_app.errors import ContextLengthExceeded, Overloaded
from tests.engines.replica import CHAT, HEADERS, SECRET, STREAM, Exchange, call
from tests.fakes import FakeEngine


def app_of(engine: FakeEngine, **options):
    return build_replica_app(engine, secret=SECRET, **options)


async def test_a_whole_answer_in_openai_s_shape():
    got = await call(app_of(FakeEngine()))
    assert got.status == 200
    assert got.headers["content-length"] == str(len(got.body))
    assert got.json["id"] == "chatcmpl-7"
    assert got.json["created"] == 99
    assert got.json["choices"][0]["message"]["content"] == "hello"
    assert got.json["usage"]["completion_tokens"] == 5


async def test_completions():
    got = await call(app_of(FakeEngine()), "/v1/completions", {"model": "fake", "prompt": "abc", "max_tokens": 2})
    assert got.json["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length"}]
    assert got.json["id"] == "cmpl-7"


async def test_a_stream_ends_with_finish_usage_and_done_in_one_write():
    engine = FakeEngine(delay_s=0.001)
    got = await call(app_of(engine), body=STREAM)
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.ended
    last = got.writes[-1]
    assert b'"finish_reason":"stop"' in last
    assert b'"usage":{' in last
    assert last.endswith(b"data: [DONE]\n\n")
    assert len(got.writes) == 6, "five paced characters, then the end"


async def test_tokens_that_are_ready_together_leave_in_one_write():
    got = await call(app_of(FakeEngine()), body=STREAM)
    assert len(got.writes) == 1
    assert len(got.events) == 5 + 1 + 1 + 1


async def test_no_usage_event_unless_asked_for():
    got = await call(app_of(FakeEngine()), body={**CHAT, "stream": True})
    assert b'"usage"' not in got.body


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": SECRET}])
async def test_a_wrong_secret_is_refused(headers):
    engine = FakeEngine()
    got = await call(app_of(engine), headers=headers)
    assert got.status == 401
    assert got.json["error"]["type"] == "authentication_error"
    assert not engine.queries


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b'{"model":"fake"}'])
async def test_a_broken_body_is_refused(body):
    got = await call(app_of(FakeEngine()), body=body)
    assert got.status == 400
    assert got.json["error"]["type"] == "invalid_request_error"


async def test_a_body_in_parts_is_joined():
    got = await call(app_of(FakeEngine()), body=[b'{"model":"fake","messages":[{"role":"us', b'er","content":"ok"}]}'])
    assert got.json["choices"][0]["message"]["content"] == "ok"


async def test_a_body_over_the_limit_is_refused():
    got = await call(app_of(FakeEngine(), body_bytes=100), body=[b" " * 60, b" " * 60])
    assert got.status == 413


async def test_another_model_is_not_here():
    got = await call(app_of(FakeEngine()), body={**CHAT, "model": "other"})
    assert (got.status, got.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/chat/completions", "GET", 405),
        ("/health", "POST", 405),
        ("/v1/models", "GET", 404),
        ("/", "POST", 404),
    ],
)
async def test_unknown_routes_and_methods(path, method, status):
    got = await call(app_of(FakeEngine()), path, method=method)
    assert got.status == status
    assert "error" in got.json


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContextLengthExceeded("too long"), 400),
        (Overloaded("busy", retry_after_s=2.4), 429),
        (RuntimeError("broken"), 502),
    ],
)
async def test_an_error_before_the_first_byte_has_its_true_status(body, error, status):
    got = await call(app_of(FakeEngine(fail_after=0, error=error)), body=body)
    assert got.status == status
    assert got.headers["content-type"] == "application/json"
    assert got.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_a_crash_is_logged_and_told_without_its_details(caplog):
    app = app_of(FakeEngine(fail_after=0, error=RuntimeError("secret detail")))
    got = await call(app)
    assert "secret detail" not in got.body.decode()
    assert "secret detail" in caplog.text
    assert (await call(app, "/health", method="GET")).status == 200, "and it serves on"


async def test_an_error_inside_a_stream_is_an_event_and_no_done():
    got = await call(app_of(FakeEngine(fail_after=2)), body=STREAM)
    assert got.status == 200
    assert got.ended
    assert b'"error"' in got.events[-1]
    assert b"[DONE]" not in got.body
    assert len(got.events) == 3, "what was said before the error is not lost"


async def test_an_engine_that_ends_too_early_is_an_error():
    class Broken(FakeEngine):
        async def stream(self, query):
            async for chunk in super().stream(query):
                if chunk.finish_reason is None:
                    yield chunk

    assert (await call(app_of(Broken()))).status == 502
    assert b'"error"' in (await call(app_of(Broken()), body=STREAM)).events[-1]


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_caller_who_leaves_before_the_first_chunk_cancels_the_engine(body):
    engine, exchange = FakeEngine(gate=asyncio.Event()), Exchange()
    task = asyncio.create_task(call(app_of(engine), body=body, exchange=exchange))
    await asyncio.sleep(0.01)
    assert engine.running == 1
    exchange.leave()
    await task
    assert (engine.running, engine.cancelled, exchange.status) == (0, 1, 0)


async def test_a_caller_who_leaves_inside_a_stream_cancels_the_engine():
    engine, exchange = FakeEngine(delay_s=0.001, script=lambda q, i: ["x"] * 10_000), Exchange()
    app = app_of(engine)
    task = asyncio.create_task(call(app, body=STREAM, exchange=exchange))
    await exchange.started.wait()
    exchange.leave()
    await task
    assert (engine.running, engine.cancelled) == (0, 1)
    assert app.admission.open == 0


async def test_a_cancelled_server_task_is_not_swallowed():
    engine = FakeEngine(gate=asyncio.Event())
    task = asyncio.create_task(call(app_of(engine)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == 0


async def test_a_caller_who_leaves_the_queue_never_reaches_the_engine():
    engine, exchange = FakeEngine(gate=asyncio.Event()), Exchange()
    app = app_of(engine, max_ongoing=1)
    first = asyncio.create_task(call(app))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(call(app, exchange=exchange))
    await asyncio.sleep(0.01)
    exchange.leave()
    await second
    engine.gate.set()
    assert (await first).status == 200
    assert len(engine.queries) == 1


async def test_a_full_queue_is_429_with_retry_after():
    engine = FakeEngine(gate=asyncio.Event())
    app = app_of(engine, max_ongoing=1, max_queued=1)
    tasks = [asyncio.create_task(call(app)) for _ in range(2)]
    await asyncio.sleep(0.01)
    refused = await call(app)
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    engine.gate.set()
    assert [(await t).status for t in tasks] == [200, 200]


async def test_drain_finishes_the_open_and_refuses_the_new():
    engine = FakeEngine(gate=asyncio.Event())
    app = app_of(engine)
    open_one = asyncio.create_task(call(app, body=STREAM))
    await asyncio.sleep(0.01)
    drained = asyncio.create_task(app.drain(60))
    await asyncio.sleep(0)
    refused = await call(app)
    assert refused.status == 503
    assert refused.headers["x-jethro-draining"] == "1"
    assert (await call(app, "/health", method="GET")).status == 503
    engine.gate.set()
    assert await drained is True
    assert (await open_one).body.endswith(b"data: [DONE]\n\n")


async def test_health_tells_load_and_capabilities_without_a_key():
    engine = FakeEngine(gate=asyncio.Event())
    app = app_of(engine, max_ongoing=1)
    tasks = [asyncio.create_task(call(app)) for _ in range(2)]
    await asyncio.sleep(0.01)
    got = await call(app, "/health", method="GET", headers={})
    assert got.status == 200
    assert got.json["ok"] is True
    assert (got.json["running"], got.json["waiting"]) == (1, 1)
    assert got.json["model"] == "fake"
    assert got.json["capabilities"]["max_context_tokens"] == 4096
    engine.gate.set()
    await asyncio.gather(*tasks)


async def test_health_of_a_sick_engine_is_503():
    assert (await call(app_of(FakeEngine(ok=False)), "/health", method="GET")).status == 503


async def test_metrics_are_the_engine_s():
    got = await call(app_of(FakeEngine()), "/metrics", method="GET")
    assert got.body == b"fake_running 0\n"
    refused = await call(app_of(FakeEngine()), "/metrics", method="GET", headers={})
    assert refused.status == 401


async def test_lifespan_is_answered():
    sent, messages = [], [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    await app_of(FakeEngine())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_an_answer_has_an_id_even_if_none_was_given():
    got = await call(app_of(FakeEngine()), headers={"authorization": HEADERS["authorization"]})
    assert len(got.json["id"]) > len("chatcmpl-") + 8
    assert got.json["created"] > 99


async def test_the_tokens_of_a_prompt():
    app = app_of(FakeEngine())
    got = await call(app, "/v1/count_tokens", CHAT)
    assert (got.status, got.json) == (200, {"prompt_tokens": 6})
    assert (await call(app, "/v1/count_tokens", {**CHAT, "model": "another"})).status == 404
    assert (await call(app, "/v1/count_tokens", CHAT, headers={})).status == 401
    assert (await call(app, "/v1/count_tokens", method="GET")).status == 405
