import json
from dataclasses import replace

import numpy as np
import pytest

from serve_app.cascade.routing.fitting import RoutingPlan, fit_routing
from serve_app.cascade.routing.mixing import Mixture
from serve_app.cascade.routing.router import ARRAYS, FILE, Answered, Prompt, load_routing, save_routing, version_of
from serve_app.errors import ConfigError
from tests.cascade.routing.worlds import MODELS, made_up

PROMPT = Prompt(100, 0.5)
WEAK = Answered("weak", -0.001, "red", 1e-5)
UNSURE = Answered("weak", -1.2, "red", 1e-5)


@pytest.fixture(scope="module")
def router():
    return fit_routing(made_up(600).split("train"), RoutingPlan(MODELS, 6e-5))


@pytest.fixture
def folder(router, tmp_path):
    save_routing(router, tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.slow
def test_it_starts_with_some_model_and_tells_what_it_expects(router):
    advice = router.start(PROMPT)
    assert advice.ask in MODELS
    assert advice.take is None
    assert set(advice.quality) == set(advice.cost_usd) == set(MODELS)
    assert all(0 <= q <= 1 for q in advice.quality.values())


def test_a_sure_answer_is_taken_and_an_unsure_one_is_not(router):
    sure, unsure = router.after(PROMPT, [WEAK]), router.after(PROMPT, [UNSURE])
    assert sure.quality["weak"] > unsure.quality["weak"]
    assert (sure.ask, sure.take) == (None, "weak")
    assert unsure.ask in ("middle", "strong")
    assert set(unsure.cost_usd) == {"middle", "strong"}


def test_two_that_agree_are_believed_more(router):
    second = [Answered("middle", -0.5, said, 1e-4) for said in ("Red.", "blue")]
    agree, differ = (router.after(PROMPT, [UNSURE, answer]) for answer in second)
    assert agree.quality["weak"] > differ.quality["weak"]
    assert agree.quality["middle"] > differ.quality["middle"]


def test_the_order_of_answers_does_not_matter(router):
    answers = [UNSURE, Answered("strong", -0.5, "blue", 1e-3)]
    assert router.after(PROMPT, answers) == router.after(PROMPT, answers[::-1])


def test_nobody_is_asked_when_all_have_answered(router):
    everyone = [Answered(m, -3.0, m, 1e-4) for m in MODELS]
    advice = router.after(PROMPT, everyone)
    assert advice.ask is None
    assert advice.take == max(MODELS, key=lambda m: advice.quality[m])
    assert advice.cost_usd == {}


def test_pools_that_cannot_be_asked_are_passed_over(router):
    first = router.start(PROMPT).ask
    other = router.start(PROMPT, without=[first]).ask
    assert other is not None
    assert other != first
    assert router.start(PROMPT, without=MODELS).ask is None
    assert router.start(PROMPT, without=MODELS).take is None
    left = router.after(PROMPT, [UNSURE], without=["middle", "strong"])
    assert (left.ask, left.take) == (None, "weak")


def test_an_answer_of_unknown_signal_counts_as_unsure(router):
    unknown = router.after(PROMPT, [Answered("weak", float("nan"), "red", 1e-5)])
    assert unknown.quality["weak"] < router.after(PROMPT, [UNSURE]).quality["weak"]


def test_unknown_pools_and_answers_given_twice_are_our_own_mistakes(router):
    with pytest.raises(ValueError, match="no pool 'absent'"):
        router.after(PROMPT, [Answered("absent", 0.0, "", 0.0)])
    with pytest.raises(ValueError, match="twice"):
        router.after(PROMPT, [WEAK, WEAK])


def test_what_is_saved_is_what_is_loaded(router, folder):
    loaded = load_routing(folder)
    assert loaded.version == router.version
    assert loaded.version.startswith("cascade-routing-")
    assert loaded.expected == router.expected
    for answers in ([], [WEAK], [UNSURE]):
        for coin in (0.0, 0.5, 0.99):
            prompt = Prompt(77, coin)
            assert loaded.after(prompt, answers) == router.after(prompt, answers)


def test_the_margin_travels_and_none_leaves_no_word(router, tmp_path):
    for margin in (0.0, 0.1):
        sides = [replace(side, margin=margin) for side in (router.mixture.cheap, router.mixture.dear)]
        changed = version_of(replace(router, mixture=Mixture(*sides, router.mixture.share)))
        save_routing(changed, tmp_path)
        loaded = load_routing(tmp_path)
        assert loaded.mixture.dear.margin == margin and loaded.version == changed.version
        assert ("margin" in (tmp_path / FILE).read_text()) == (margin > 0)


def test_the_strongest_models_answer_is_taken_unless_another_looks_better_by_the_margin(router):
    taken = set()
    for margin in (0.0, 1.0):
        sides = [replace(side, margin=margin) for side in (router.mixture.cheap, router.mixture.dear)]
        called = replace(router, mixture=Mixture(*sides, router.mixture.share))
        answers = [Answered("weak", -0.001, "red", 1e-5), Answered("strong", -6.0, "blue", 1e-3)]
        taken.add((margin, called.after(Prompt(77, 0.5), answers).take))
    assert taken == {(0.0, "weak"), (1.0, "strong")}


def spoil(folder, **changes):
    body = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(body | changes))


def with_margin(folder, margin):
    mixture = json.loads((folder / FILE).read_text())["mixture"]
    return mixture | {"dear": mixture["dear"] | {"margin": margin}}


def rearrange(folder, **changes):
    with np.load(folder / ARRAYS) as arrays:
        body = dict(arrays) | changes
    with (folder / ARRAYS).open("wb") as out:
        np.savez(out, **body)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda f: (f / FILE).unlink(), "no such file"),
        (lambda f: (f / ARRAYS).unlink(), "no such file"),
        (lambda f: (f / FILE).write_text("{"), "cannot be read"),
        (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:200]), "cannot be read"),
        (lambda f: spoil(f, kind="knn"), "kind is 'knn'"),
        (lambda f: spoil(f, format=99), "format is 99"),
        (lambda f: spoil(f, pools=["a"]), "pools are 1"),
        (lambda f: spoil(f, pools=["a", "b", "c"]), "KeyError"),
        (lambda f: spoil(f, encoder="minilm"), "encoder"),
        (lambda f: spoil(f, prompt_bias=0.123), "changed"),
        (lambda f: spoil(f, mixture={}), "cannot be read"),
        (lambda f: spoil(f, mixture=with_margin(f, 1.5)), "margin is 1.5"),
        (lambda f: spoil(f, mixture=with_margin(f, 0.05)), "changed"),
        (lambda f: spoil(f, signals={m: {"name": "no signal"} for m in MODELS}), "no signal"),
        (lambda f: rearrange(f, cost=np.zeros((1, 1))), "cost"),
        (lambda f: rearrange(f, values_0=np.array([np.nan]), log_odds_0=np.zeros(1)), "finite"),
        (lambda f: rearrange(f, move=np.zeros((8, 3, 3))), "changed"),
        (lambda f: rearrange(f, quality=np.array(["x"], dtype=object)), "cannot be read"),
    ],
)
def test_a_folder_that_is_broken_is_refused_by_name(folder, how, says):
    how(folder)
    with pytest.raises(ConfigError, match=says) as caught:
        load_routing(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_told(router, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_routing(router, tmp_path / "file")
