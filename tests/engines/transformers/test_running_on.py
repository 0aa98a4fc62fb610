"""Parameters beyond OpenAI's: which values are taken, and how they let an answer run on or end."""

import pytest

from serve_app.engines.further import NEUTRAL, FurtherSampling
from serve_app.engines.transformers.text import StopScanner
from serve_app.errors import RequestError
from tests.engines.transformers.sequences import EOS, request


def of(extra):
    return FurtherSampling.of(extra, max_tokens=10, vocabulary=100)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"top_k": -1, "min_p": None, "chat_template_kwargs": {}}, NEUTRAL),
        ({"top_k": 4, "min_p": 1}, FurtherSampling(top_k=4, min_p=1)),
        ({"logit_bias": {"7": -100, 8: 2.5}}, FurtherSampling(logit_bias={7: -100.0, 8: 2.5})),
        ({"min_tokens": 10, "ignore_eos": True}, FurtherSampling(min_tokens=10, ignore_eos=True)),
    ],
)
def test_values_in_range_are_taken(extra, expected):
    assert of(extra) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("top_k", v) for v in (-2, 1.5, True, "3")),
        *(("min_p", v) for v in (-0.1, 1.1, float("nan"), "0.5", True)),
        *(("repetition_penalty", v) for v in (0, -1, float("inf"), float("nan"), "1")),
        *(("ignore_eos", v) for v in (1, "true")),
        *(("min_tokens", v) for v in (-1, 11, 1.0, True)),
        *(("logit_bias", v) for v in ([], {"100": 1}, {"-1": 1}, {"x": 1}, {"": 1}, {"1": 101}, {"1": "2"}, {"²": 1})),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", {"1": float("nan")}),
    ],
)  # fmt: skip
def test_others_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        of({name: value})
    assert (caught.value.param, caught.value.status) == (name, 400)
    assert len(str(caught.value)) < 200


def run(tokens, extra, **sampling):
    """Text, finish reason and how many tokens were taken of those given."""
    further = FurtherSampling.of(extra, max_tokens=sampling["max_tokens"], vocabulary=100)
    own = request(further=further, **sampling)
    text = ""
    for count, token in enumerate(tokens, 1):
        chunk = own.sequences[0].accept(token, None)
        text += chunk.text if chunk is not None else ""
        if chunk is not None and chunk.finish_reason is not None:
            return text, chunk.finish_reason, count
    raise AssertionError("no end")


def test_an_ignored_end_runs_to_max_tokens():
    assert run([4, EOS, 5, EOS, 6], {}, max_tokens=5) == ("<4>", "stop", 2)
    text, finish, count = run([4, EOS, 5, EOS, 6], {"ignore_eos": True}, max_tokens=5)
    assert (finish, count) == ("length", 5)
    assert text.endswith("<6>")


def test_stop_strings_still_end_where_ends_are_ignored():
    assert run([4, EOS, 5, 6], {"ignore_eos": True}, max_tokens=9, stop=("<5>",))[1:] == ("stop", 3)


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0, ("", "stop", 1)),
        (1, ("<4><5>", "stop", 3)),
        (3, ("<4><5><4><5>", "stop", 5)),
        (6, ("<4><5><4><5><4><5>", "length", 6)),
    ],
)
def test_stop_strings_count_after_min_tokens(least, expected):
    assert run([4, 5, 4, 5, 4, 5], {"min_tokens": least}, max_tokens=6, stop=("<4>",)) == expected


def test_a_stop_string_may_begin_before_min_tokens_and_end_after():
    assert run([4, 5, 6, 7], {"min_tokens": 2}, max_tokens=4, stop=("<5><6>",)) == ("<4>", "stop", 3)


def test_what_passed_once_is_not_found_later():
    scanner = StopScanner(("bc", "abcdef"))
    assert scanner.feed("abc", ends=False) == ("", False)
    assert scanner.feed("de") == ("", False)
    assert scanner.feed("bc") == ("abcde", True)
