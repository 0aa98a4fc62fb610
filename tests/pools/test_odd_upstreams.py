"""Odd answers of upstreams, each played whole, byte by byte and cut at every event: callers see the same, and this."""

import os
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest

from serve_app.errors import DeadlineExceeded
from serve_app.pools.http import UpstreamOptions
from serve_app.pools.upstream import Timeouts
from serve_app.types import Message, Query
from serve_app.wire.frames import Call
from tests.pools.odd_upstreams import DONE, END, GOOD, HEL, LO, STOP, USAGE, chunked, cuts, delta, http, playing, usage
from tests.pools.odd_upstreams import whole as answer
from tests.pools.outcomes import check, gateway, read_stream, same_for_all_cuts

COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
GOOD_END = {"status": 200, "finishes": ["stop"], "finish_last": True, "error": None, "tries": 1, "jethro": 1}
HELLO = GOOD_END | {"text": "Hello", "usage": COUNTS, "done": True, "stored": (7, 3)}
SAID = GOOD_END | {"text": "Hello", "done": False, "usage": COUNTS, "stored": (7, 3)}
CUT = {"status": 200, "text": "Hel", "finishes": [], "done": False, "tries": 1}
ODD = {"status": 502, "tries": 3}
CALLERS = {"status": 400, "error": "bad", "tries": 1}
LIMITED = {"status": 429, "error": "slow", "tries": 1}
DELTA = "the upstream sent an event of an unknown shape: a delta that is not an object"
COMPRESSED = "a compressed body, which was not requested"
NEVER = "Mon, 01 Jan 2024 00:00:00 +" + "9" * 17
DEEP = "the upstream sent an event that is nested too deeply"
BROKE = "the upstream broke off inside the stream"
SENT, EARLY = "the upstream sent ", "the upstream ended the stream before the answer was complete"


def with_errors(value: str) -> bytes:
    """A good stream with this error in every event."""
    return (HEL + LO + STOP + USAGE).replace(b"}\n\n", b',"error":%b}\n\n' % value.encode()) + DONE


def choice(part: bytes) -> bytes:
    """An event of a choice with this part."""
    return b'data: {"choices":[{"index":0,%b"finish_reason":null}]}\n\n' % part


def broken(event: bytes, **expected: Any) -> tuple[bytes, dict[str, Any]]:
    """A stream with an error after its first text."""
    return http(HEL + event + DONE), CUT | expected


STREAMS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "good": (http(GOOD), HELLO),
    "chunked": (chunked(GOOD), HELLO),
    "CRLF": (http(GOOD.replace(b"\n", b"\r\n")), HELLO),
    "lone CR": (http(GOOD.replace(b"\n", b"\r")), HELLO),
    "comments and names": (http(b": hi\n\nevent: message\n" + GOOD + b": bye\n\n"), HELLO),
    "blank lines first": (http(b"\n\n\n" + GOOD), HELLO),
    "byte order mark": (http(b"\xef\xbb\xbf" + GOOD), HELLO),
    "pings": (http(b'event: ping\ndata: {"type":"ping"}\n\n' + HEL + b'data: {"type":"ping"}\n\n' + LO + END), HELLO),
    "empty data": (http(b"data:\n\n" + HEL + b"data: \n\n" + LO + STOP + b"data:\n\n" + USAGE + DONE), HELLO),
    "no content type": (http(GOOD, None), HELLO),
    "text/plain": (http(b"\n: hi\n\n" + GOOD, "text/plain"), HELLO),
    "octet stream": (http(GOOD, "application/octet-stream"), HELLO),
    "no space": (http(GOOD.replace(b"data: ", b"data:")), HELLO),
    "spaces in the JSON": (http(GOOD.replace(b'":', b'" : ').replace(b',"', b' , "')), HELLO),
    "data over lines": (http(GOOD.replace(b',"choices"', b',\ndata: "choices"')), HELLO),
    "no DONE": (http(HEL + LO + STOP + USAGE), HELLO),
    "no DONE, chunked": (chunked(HEL + LO + STOP + USAGE), HELLO),
    "DONE without its line end": (http(HEL + LO + STOP + USAGE + b"data: [DONE]"), HELLO),
    "last event without its line end": (http((HEL + LO + STOP + USAGE).rstrip()), HELLO),
    "DONE with spaces": (http(HEL + LO + STOP + USAGE + b"data:  [ DONE ] \n\n"), HELLO),
    "events after DONE": (http(GOOD + LO + b"data: {broken\n\n"), HELLO),
    "usage first": (http(USAGE + HEL + LO + STOP + DONE), HELLO),
    "usage with the text": (http(HEL + delta(b'"lo"', b'"stop"', b',"usage":' + orjson.dumps(COUNTS)) + DONE), HELLO),
    "usage in the choice": (
        http(HEL + LO + STOP.replace(b'"stop"}', b'"stop","usage":' + orjson.dumps(COUNTS) + b"}") + DONE),
        HELLO,
    ),
    "usage without choices": (http(HEL + LO + STOP + USAGE.replace(b'"choices":[],', b"") + DONE), HELLO),
    "finish in the middle": (http(delta(b'"Hel"', b'"stop"') + LO + USAGE + DONE), HELLO),
    "finish again and again": (http(delta(b'"Hel"', b'"stop"') + delta(b'"lo"', b'"stop"') + STOP + USAGE), HELLO),
    "finish of an odd choice": (
        http(HEL + LO + STOP.replace(b'"index":0', b'"index":[0]').replace(b'{"content":""}', b"null") + USAGE + DONE),
        HELLO,
    ),
    "finish that is no text": (http(HEL + LO + STOP.replace(b'"stop"', b"1") + USAGE + DONE), HELLO),
    **{f"errors that are {e}": (http(with_errors(e)), HELLO) for e in ("null", '""', "{}", "[]", "0", "false")},
    "no delta": (http(HEL + choice(b"") + LO + END), HELLO),
    "a delta that is null": (http(HEL + choice(b'"delta":null,') + LO + END), HELLO),
    "no index": (http(GOOD.replace(b'"index":0,', b"")), HELLO),
    "deep": (http(HEL + LO.replace(b'"id"', b'"x":' + b'{"a":' * 20 + b"1" + b"}" * 20 + b',"id"') + END), HELLO),
    "its own jethro": (http(HEL + LO + STOP + USAGE.replace(b'"id"', b'"jethro":{"a":1},"id"') + DONE), HELLO),
    "a whole answer": (http(answer(), "application/json"), HELLO),
    "a whole answer as events": (http(b"\n" + answer()), HELLO),
    "broken UTF-8": (http(delta(b'"a\xf0\x9f"') + delta(b'"\x98\x80b"') + END), HELLO | {"text": "a���b"}),
    "split surrogates": (http(delta(b'"a\\ud83d"') + delta(b'"\\ude00b"') + END), HELLO | {"text": "a��b"}),
    "a whole pair": (http(delta(b'"\\ud83d\\ude00"') + END), HELLO | {"text": "\U0001f600"}),
    "log-probabilities that are no numbers": (
        http(HEL.replace(b'"finish', b'"logprobs":{"content":[{"token":"a","logprob":-Infinity}]},"finish') + LO + END),
        HELLO,
    ),
    "no usage": (http(HEL + LO + STOP + DONE), HELLO | {"usage": None, "stored": (0, 0)}),
    "a large header": (http(GOOD, x_fat="a" * 60_000), HELLO),
    "nested error": broken(b'data: {"error":{"message":"boom","code":429}}\n\n', code="overloaded", error="boom"),
    "error with choices": broken(b'data: {"choices":[],"error":{"message":"boom"}}\n\n'),
    "error of a choice": broken(HEL.replace(b'"finish', b'"error":{"message":"boom","code":502},"finish')),
    "flat error": broken(b'data: {"object":"error","message":"boom","code":400}\n\n', error="boom"),
    "error by its type": broken(b'data: {"type":"error","error":{"type":"x","message":"boom"}}\n\n'),
    "error by its name": broken(b'event: error\ndata: {"message":"boom"}\n\n'),
    "text by its name": broken(b"event: error\ndata: boom\n\n"),
    "detail": broken(b'data: {"detail":"boom"}\n\n'),
    "details": broken(b'data: {"detail":[{"loc":["n"],"msg":"boom"}]}\n\n'),
    "error in a list": broken(b'data: [{"error":{"message":"boom","status":"INVALID_ARGUMENT"}}]\n\n', error="boom"),
    "error as text": broken(b'data: {"error":"boom"}\n\n'),
    "JSON text": broken(b'data: "boom"\n\n'),
    "plain text": broken(b"data: boom\n\n"),
    "code that is an object": broken(b'data: {"error":{"message":"boom","code":{"a":[1]}}}\n\n'),
    "code that is a list": broken(b'data: {"error":{"message":"boom","code":[429]}}\n\n'),
    "nested twice": broken(b'data: {"error":{"error":{"message":"boom"}}}\n\n'),
    "nested deeply": broken(b"data: " + b"[" * 900 + b"]" * 900 + b"\n\n"),
    "code in text": broken(b'data: {"error":{"message":"boom","code":"429"}}\n\n', error="boom"),
    "an error that is null": broken(b"event: error\ndata: null\n\n"),
    "a delta that is text": broken(choice(b'"delta":"x",'), error=DELTA),
    **{
        f"too deep, {name}": broken(event.replace(b'"id"', b'"x":' + b"[" * 300 + b"]" * 300 + b',"id"'), error=DEEP)
        for name, event in (("text", LO), ("its own jethro", LO.replace(b'"id"', b'"jethro":1,"id"')), ("usage", USAGE))
    },
    "an event that is not JSON": broken(b'data: {"choices":[{"in\n\n', error=SENT + "an event that is not JSON"),
    "an event that is a number": broken(b"data: 7\n\n", error=SENT + "an event that is not an object"),
    "choices of an unknown shape": broken(b'data: {"choices":[7]}\n\n'),
    "cut without a finish": (http(HEL), CUT | {"error": EARLY}),
    "cut in an event": (http(HEL + LO[:30]), CUT),
    "cut in a chunk": (chunked(HEL, ended=False), CUT | {"error": BROKE}),
    "a number for an error": (http(b'data: {"error":429,"message":"slow"}\n\n'), LIMITED),
    "errors in a list": (http(b'data: {"errors":[{"message":"bad","code":400}]}\n\n'), CALLERS),
    "429 first": (http(b'data: {"error":{"message":"slow","code":429}}\n\n'), LIMITED),
    "400 first": (
        http(b': hi\n\ndata: {"error":{"message":"bad","code":400}}\n\n'),
        CALLERS,
    ),
    "400 by its name first": (
        http(b'event: error\ndata: {"type":"invalid_request_error","message":"bad"}\n\n'),
        CALLERS,
    ),
    "500 first": (http(b'data: {"error":{"message":"boom","code":500}}\n\n'), ODD),
    "an error for an answer": (http(b'{"error":{"message":"bad","code":400}}', "application/json"), CALLERS),
    "HTML": (http(b"<html>Sign in</html>", "text/html"), ODD),
    "HTML without a type": (http(b"<html>Sign in</html>", None), ODD),
    "nothing": (http(b""), ODD),
    "blank lines only": (http(b"\n\n\n\n", None), ODD),
    "brotli": (http(b"\x0b\x02\x80hello\x03", Content_Encoding="br"), ODD | {"error": SENT + COMPRESSED}),
    "gzip that is none": (http(GOOD, Content_Encoding="gzip"), ODD),
    "redirect": (http(b"", None, 307, Location="/v1/chat/completions"), ODD),
    "not HTTP": (b"hello\r\n\r\n", ODD),
}  # fmt: skip

USAGES: dict[bytes, tuple[int, int] | None] = {
    b"[1]": None,
    b'"many"': None,
    b"true": None,
    b'{"prompt_tokens":-7,"completion_tokens":-3}': None,
    b'{"prompt_tokens":true,"completion_tokens":[3]}': None,
    b'{"prompt_tokens":1e400,"completion_tokens":NaN}': None,
    b'{"prompt_tokens":"7","completion_tokens":"3","total_tokens":"x"}': (7, 3),
    b'{"prompt_tokens":7.0,"completion_tokens":3.0,"total_tokens":10.0}': (7, 3),
    b'{"prompt_tokens":7,"completion_tokens":2.5}': (7, 0),
    b'{"prompt_tokens":9223372036854775808,"completion_tokens":3}': (0, 3),
    b'{"prompt_tokens":7,"completion_tokens":1000000000000000000000000000000}': (7, 0),
}
WHOLES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "good": (http(answer(), "application/json"), SAID),
    "no content type": (http(b"\n\n" + answer(), None), SAID),
    "its own jethro": (http(answer(more=b',"jethro":{"decision_id":"x"}'), "application/json"), SAID),
    "half a pair": (http(answer(b'"half \\ud83d"'), "application/json"), SAID | {"text": "half �"}),
    "broken UTF-8": (http(answer(b'"half \xf0\x9f!"'), "application/json"), SAID | {"text": "half �!"}),
    "no numbers": (
        http(answer(inside=b',"logprobs":{"content":[{"token":"X","logprob":-Infinity}]}'), "application/json"),
        SAID,
    ),
    "annotations": (http(answer(b'"Hello","refusal":null,"annotations":[]'), "application/json"), SAID),
    "400, code an object": (
        http(b'{"error":{"message":"bad","code":{"a":1}}}', "application/json", 400),
        CALLERS,
    ),
    "400 in a list": (
        http(b'[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]', "application/json", 400),
        CALLERS,
    ),
    "400 as text": (http(b'"bad"', "application/json", 400), CALLERS),
    "400 as plain text": (http(b"bad", "text/plain", 400), CALLERS),
    "400 as an event": (http(b'data: {"error":{"message":"bad"}}\n\n', status=400), {"status": 400, "error": "bad"}),
    "400 flat": (
        http(b'{"object":"error","message":"bad","code":400}', "application/json", 400),
        CALLERS,
    ),
    "200 with an error": (
        http(b'{"error":{"message":"bad","type":"invalid_request_error"}}', "application/json"),
        CALLERS,
    ),
    "200 with a rate limit": (
        http(b'{"error":{"message":"slow","code":"429"}}', "application/json"),
        LIMITED,
    ),
    "500 as text": (http(b"boom", "text/plain", 500), ODD | {"error": "the upstream answered with status 500: boom"}),
    "plain 404": (http(b"404 page not found", "text/plain", 404), ODD),
    "FastAPI's 404": (http(b'{"detail":"Not Found"}', "application/json", 404), ODD),
    "events": (http(GOOD), ODD),
    "HTML": (http(b"<html>Sign in</html>", "text/html"), ODD),
    "not modified": (
        http(b"", None, 304),
        ODD | {"error": "the upstream answered with status 304, which is no answer"},
    ),
    "429 until an odd date": (
        http(b'{"error":{"message":"slow"}}', "application/json", 429, Retry_After=NEVER),
        LIMITED,
    ),
    "400 as an event after a comment": (http(b': hi\n\ndata: {"error":{"message":"bad"}}\n\n', status=400), CALLERS),
    "no content": (http(answer(b"null").replace(b',"content":null', b""), "application/json"), SAID | {"text": None}),
    "redirect": (http(b"", None, 302, Location="https://example.com/"), ODD),
    "cut": (http(answer()[:40], "application/json", Content_Length="400"), ODD),
    "brotli": (http(b"\x0b\x02\x80hello\x03", "application/json", Content_Encoding="br"), ODD),
    "no choices": (http(b'{"choices":[]}', "application/json"), ODD),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
async def test_odd_streams(name: str) -> None:
    raw, expected = STREAMS[name]
    found = await same_for_all_cuts(raw, True)
    check(found, expected)
    if b"boom" in raw and found.status == 200:
        assert found.error is not None and "boom" in found.error


@pytest.mark.parametrize("name", WHOLES)
async def test_odd_whole_answers(name: str) -> None:
    raw, expected = WHOLES[name]
    check(await same_for_all_cuts(raw, False), expected)


@pytest.mark.parametrize("value", USAGES)
async def test_odd_usage(value: bytes) -> None:
    counts = USAGES[value]
    told = None if counts is None else dict(zip(COUNTS, (*counts, sum(counts)), strict=True))
    raw = answer().replace(orjson.dumps(COUNTS), value)
    for stream, bytes_ in ((True, http(HEL + LO + STOP + usage(value) + DONE)), (False, http(raw, "application/json"))):
        expected = (HELLO if stream else SAID) | {"usage": told, "stored": counts or (0, 0)}
        found = await same_for_all_cuts(bytes_, stream)
        check(found, expected)
        assert found.repairs["usage"] == 1


async def test_a_rate_limit_in_the_first_event_is_tried_elsewhere() -> None:
    limited = http(b'data: {"error":{"message":"slow","code":429}}\n\n')
    body = {"model": "up", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with playing([limited]) as one, playing([http(GOOD)]) as two, gateway(one.url, two.url) as (client, _, _):
        for _ in range(8):
            found = read_stream(await client.post("/v1/chat/completions", json=body))
            assert (found.text, found.error) == ("Hello", None)
        assert two.tries == 8


async def test_comments_keep_the_wait_for_the_first_event_alive_up_to_the_deadline() -> None:
    slow = [http(b""), *[b": working\n\n"] * 12, GOOD]
    async with playing(slow, 0.05) as server, gateway(server.url) as (client, pool, _):
        pool.options = UpstreamOptions("up", {}, Timeouts(1, 0.2, 0.2), identify=False)
        body = {"model": "up", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        found = read_stream(await client.post("/v1/chat/completions", json=body))
        assert (found.text, server.tries) == ("Hello", 1)


async def test_a_deadline_is_a_deadline_whatever_the_upstream_sends() -> None:
    slow = [http(b""), *[b": working\n\n"] * 100]
    query = Query((Message("user", "hi"),))
    async with playing(slow, 0.05) as server, gateway(server.url) as (_, pool, _):
        for call in (pool.complete, lambda *args: anext(pool.stream(*args))):
            with pytest.raises(DeadlineExceeded):
                await call(query, Call("a", "b", 1, deadline_s=monotonic() + 0.3))
        assert server.tries == 2 and pool.directory.available


async def test_an_answer_with_annotations_is_accepted_as_history() -> None:
    async with playing([http(answer(), "application/json")]) as server, gateway(server.url) as (client, _, _):
        said = {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []}
        body = {"model": "up", "messages": [{"role": "user", "content": "hi"}, said, {"role": "user", "content": "so"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


SHARED = Path(os.environ.get("JETHRO_TEST_DATA", "")) / "upstreams"
NAMED: dict[str, dict[str, Any]] = {
    "br.stream": ODD, "html200.stream": ODD, "redir307.whole": ODD, "errfirst.stream": {"status": 429, "tries": 1},
    "errflat.stream": CUT | {"error": "flat boom"}, "errname.stream": CUT, "detail.stream": CUT,
    "e400codedict.whole": {"status": 400, "error": "m", "tries": 1},
    "e400list.whole": {"status": 400, "error": "google style list", "tries": 1},
    "finishmid.stream": GOOD_END | {"text": "123", "done": True},
    "usageneg.whole": GOOD_END | {"usage": None, "stored": (0, 0)},
    "usagestr.whole": SAID, "usagelist.stream": GOOD_END | {"text": "Hel", "usage": None, "stored": (0, 0)},
    "eusagehuge2.whole": GOOD_END | {"stored": (0, 3)},
    "badutf8.stream": GOOD_END | {"text": "���"}, "esurro.whole": GOOD_END | {"text": "half �"},
}  # fmt: skip
"""Where the outcome is another than a complete answer."""


@pytest.mark.skipif("JETHRO_TEST_DATA" not in os.environ, reason="JETHRO_TEST_DATA names no folder of odd answers")
async def test_recorded_odd_answers() -> None:
    paths = sorted(SHARED.glob("*.http"))
    assert paths
    for path in paths:
        found = await same_for_all_cuts(path.read_bytes(), ".stream." in path.name)
        check(found, NAMED.get(path.stem, GOOD_END))


def test_the_cuts_are_of_the_same_bytes() -> None:
    assert {b"".join(pieces) for pieces in cuts(http(GOOD)).values()} == {http(GOOD)}
