from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import UpstreamError
from serve_app.types import Chunk, TokenLogprob
from serve_app.wire.encoding import StreamEncoder
from serve_app.wire.frames import Answer, Frame
from serve_app.wire.response_filter import ResponseFilter, with_logprobs
from tests.cascade.fakes import query

NASTY = '"logprobs":{"content":[],"refusal":null},"text_offset":[1]}\\ ü'


def test_log_probabilities_are_added_and_nothing_is_taken_away() -> None:
    assert with_logprobs(query(), 3).sampling.top_logprobs == 3
    asked = query(logprobs=True, top_logprobs=7)
    assert with_logprobs(asked, 3) is asked


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@given(words=st.lists(st.one_of(st.just(NASTY), st.text(min_size=1)), min_size=1, max_size=4))
def test_a_stream_without_log_probabilities_again_is_the_one_that_never_had_any(endpoint, words) -> None:
    asked = replace(query(), endpoint=endpoint)
    sent = with_logprobs(asked, 2)
    plain = StreamEncoder(asked, model="m", answer_id="a", created=1)
    rich = StreamEncoder(sent, model="m", answer_id="a", created=1)
    logprobs = tuple(TokenLogprob(w, -0.5, ((w, -0.5), ("text_offset", -2.0))) for w in words)
    chunks = [Chunk(0, w, logprobs=(t,)) for w, t in zip(words, logprobs, strict=True)]
    shown = ResponseFilter(asked, sent).frame(Frame(rich.encode_all(chunks)))
    alone = Frame(plain.encode_all([Chunk(0, w) for w in words]))
    assert shown.events == alone.events


def test_what_another_upstream_writes_is_parsed() -> None:
    event = {
        "choices": [{"index": 0, "logprobs": {"content": [{"token": "a", "logprob": -1}]}, "delta": {"content": "a"}}]
    }
    frame = Frame(b"data: " + orjson.dumps(event, option=orjson.OPT_INDENT_2).replace(b"\n", b" ") + b"\n\n")
    shown = ResponseFilter(query(), with_logprobs(query())).frame(frame)
    assert shown.events[0]["choices"][0]["logprobs"] is None
    with pytest.raises(UpstreamError):
        ResponseFilter(query(), with_logprobs(query())).frame(Frame(b'data: {"logprobs": {\n\n'))


def test_frames_pass_untouched_where_nothing_was_added() -> None:
    frame = Frame(b'data: {"logprobs":{"content":[]}}\n\n')
    assert ResponseFilter(query(), query()).frame(frame) is frame


def test_alternatives_are_cut_to_the_number_asked_for() -> None:
    asked = query(logprobs=True, top_logprobs=1)
    sent = with_logprobs(asked, 3)
    top = [{"token": t, "logprob": -1.0} for t in "abc"]
    body = {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": top}]}}]}
    cut = ResponseFilter(asked, sent).answer(Answer(orjson.dumps(body))).parsed
    assert cut["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == top[:1]
    text = {"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": [{"a": -1.0, "b": -2.0}]}}]}
    cut = ResponseFilter(asked, sent).answer(Answer(orjson.dumps(text))).parsed
    assert cut["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -1.0}]
