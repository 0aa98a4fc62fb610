"""Decisions in words."""

from serve_app.cli.endpoint import explain_answer, explain_decision, printable


def test_headers_alone_are_enough():
    told = {"pool": "large", "model": "m", "score": "0.5", "threshold": "0.5", "cost-usd": "0.002"}
    assert explain_answer(told) == "[large m · 0.500 >= 0.500 · $0.002]"


def test_a_direct_answer_has_a_reason_and_no_score():
    told = {"pool": "small", "model": "m", "reason": "asked for m", "score": None, "threshold": None, "cost_usd": 0}
    assert explain_answer(told) == "[small m · asked for m · $0]"


def test_a_foreign_endpoint_tells_nothing():
    assert explain_answer({}) == "[]"


def test_a_bare_decision_is_explained():
    assert explain_decision({"pool": "small", "model": "m", "reason": "r"}).splitlines() == [
        "answers  small (m)",
        "because  r",
    ]
    warned = explain_decision({"pool": "small", "model": "m", "reason": "r", "warning": "a guess"}).splitlines()
    assert warned[-1] == "warning  a guess"


def test_control_characters_are_dropped_and_text_is_kept():
    assert printable("a\x00\x1b[31mb\x7f\x9f é\tü\n") == "a[31mb é\tü\n"
