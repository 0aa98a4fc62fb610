"""How rarely the lab's own queries are taken for other texts, and how surely other texts are found."""

import re
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from serve_app.lab.sample import sample
from serve_app.lab.scope import Scope, fit_scope, scope_file, shipped_scope

HELD_OUT = (Path(__file__).parent / "everyday_held_out.txt").read_text("utf-8").splitlines()
"""English that no training text was written after, a line each."""


def of_tasks(n: int, seed: int) -> list[str]:
    """Unseen queries of the 13 tasks, balanced over task and size."""
    found = [item.prompt for item in sample(n + n // 8, seed, "unseen") if item.task != "other"]
    assert len(found) >= n
    return found[:n]


@pytest.mark.parametrize("seed", [1, 5])
def test_at_most_one_in_a_hundred_lab_queries_is_taken_for_another_text(seed):
    queries = of_tasks(2000, seed)
    alarms = [text for text in queries if not shipped_scope().knows(text)]
    assert len(alarms) <= 20, alarms


def test_nearly_all_everyday_english_is_found():
    assert len(HELD_OUT) >= 250 and len(set(HELD_OUT)) == len(HELD_OUT)
    missed = [text for text in HELD_OUT if shipped_scope().knows(text)]
    assert len(missed) <= 0.03 * len(HELD_OUT), missed


def test_no_held_out_line_was_trained_on():
    trained = (scope_file().parent / "tasks" / "everyday.txt").read_text("ascii").lower()
    lines = {re.sub(r"\W+", " ", line).strip() for line in trained.splitlines()}
    same = [text for text in HELD_OUT if re.sub(r"\W+", " ", text.lower()).strip() in lines]
    assert len(same) < 0.15 * len(HELD_OUT), "greetings and the like, which anybody writes"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("what is 40 + 2?", True),
        ("sort 52 17 88 6 34", True),
        ("Reverse stone", True),
        ("How many letters are in banana?", True),
        ("what is 14 in roman numerals?", True),
        ("who wrote hamlet?", False),
        ("Write a poem about autumn.", False),
        ("", False),
        ("   ", False),
        ("¿Cuál es la capital de Francia?", False),
        ("東京の天気は？", False),
        ("def f(x): return x + 1", False),
    ],
)
def test_examples(text, known):
    assert shipped_scope().knows(text) is known


def test_a_long_text_is_none_of_the_tasks_whatever_it_begins_with():
    assert not shipped_scope().knows("what is 40 + 2? " + "and then we went home " * 10_000)


def test_the_time_does_not_grow_with_the_text():
    def ms(text: str) -> float:
        times = []
        for _ in range(15):
            started = perf_counter()
            shipped_scope().knows(text)
            times.append((perf_counter() - started) * 1e3)
        return median(times)

    ms("warm up")
    short, long = ms("who wrote hamlet and " * 19), ms("who wrote hamlet and " * 50_000)
    assert long < 5 * short + 0.2


def test_what_is_saved_is_what_is_loaded(tmp_path):
    scope = shipped_scope()
    scope.save(tmp_path / "scope.json")
    assert Scope.load(tmp_path / "scope.json") == scope
    assert (tmp_path / "scope.json").read_bytes() == scope_file().read_bytes()
    (tmp_path / "scope.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"format is 99.*jethro lab scope"):
        Scope.load(tmp_path / "scope.json")


@pytest.mark.slow
def test_it_is_trained_in_seconds_and_always_alike(tmp_path):
    said = []
    scopes = [fit_scope(6000, seed=3, report=said.append) for _ in range(2)]
    assert scopes[0] == scopes[1]
    assert sum(not scopes[0].knows(text) for text in of_tasks(1000, 9)) <= 30
    assert sum(not scopes[0].knows(text) for text in HELD_OUT) >= 0.93 * len(HELD_OUT)
    assert "false alarms" in said[0]
