from pathlib import Path

import pytest

import serve_app
from serve_app.cascade.routing.router import Answered, Prompt, load_routing

FOLDER = Path(serve_app.__file__).parent / "cascade" / "lab" / "routing"


@pytest.fixture(scope="module")
def router():
    return load_routing(FOLDER)


def test_the_labs_router_is_for_its_pools_and_judges_what_they_answer(router):
    assert router.pools == ("small", "large")
    assert router.models == ("jlab-small", "jlab-large")
    assert router.encoder is None
    assert all(signal is not None and signal.needs.logprobs for signal in router.signals.values())


def test_it_promises_what_was_asked_of_it(router):
    assert router.expected["reach:large"] <= 0.65
    assert router.expected["quality"] >= 0.99 * router.expected["strong_quality"]
    assert router.data["fell_back"] is False


def test_it_asks_the_weak_model_first_and_the_strong_one_where_the_answer_is_doubtful(router):
    prompt = Prompt(40, 0.5)
    assert router.start(prompt).ask == "small"
    sure, doubtful = (router.after(prompt, [Answered("small", z, "18", 1.5e-6)]) for z in (8.0, -3.0))
    assert (sure.ask, sure.take) == (None, "small")
    assert (doubtful.ask, doubtful.take) == ("large", "small")
