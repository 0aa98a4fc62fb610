from dataclasses import replace

import numpy as np
import pytest

from serve_app.cascade.fitting.confidence import ConfidencePlan
from serve_app.cascade.routing.fitting import RoutingPlan, fit_routing, holds, within_budget
from serve_app.cascade.routing.mixing import choose_shape, mean_quality
from serve_app.cascade.routing.router import Answered, Prompt, load_routing, save_routing
from serve_app.cascade.routing.walk import always
from serve_app.cascade.signals.consistency import AnswerAgreement
from serve_app.cascade.signals.tokens import Prior
from serve_app.errors import ConfigError, DataError, InsufficientData
from tests.cascade.routing.worlds import MODELS, fixed, made_up


@pytest.fixture(scope="module")
def train():
    return made_up(600).split("train")


@pytest.fixture(scope="module")
def router(train):
    return fit_routing(train, RoutingPlan(MODELS, 3e-4))


@pytest.fixture(scope="module")
def few():
    """Of two models, for what needs a fit, but no good one."""
    return made_up(240).split("train")


@pytest.fixture(scope="module")
def fitted(few):
    return fit_routing(few, few_plan())


def few_plan(**changed):
    return replace(RoutingPlan(MODELS[:2], 5e-5), **changed)


def replayed(router, recorded):
    """Every recorded query walked by the object that serves: quality and cost."""
    rng = np.random.default_rng(0)
    quality, cost = [], []
    for row, prompt in enumerate(recorded.prompts):
        called = Prompt(len(prompt), rng.random())
        answers = []
        while (advice := router.after(called, answers)).ask is not None:
            m = recorded.models.index(advice.ask)
            text = recorded.evidence[row][m].text
            answers.append(Answered(advice.ask, recorded.confidence[row, m], text, recorded.cost_usd[row, m]))
        quality.append(recorded.ok[row, recorded.models.index(advice.take)])
        cost.append(sum(a.cost_usd for a in answers))
    return np.mean(quality), np.mean(cost)


@pytest.mark.slow
def test_it_keeps_its_budget_and_its_word_on_queries_it_did_not_see(router):
    quality, cost = replayed(router, made_up(600).split("test"))
    assert cost == pytest.approx(3e-4, rel=0.15)
    assert quality == pytest.approx(router.expected["quality"], abs=0.06)


@pytest.mark.slow
def test_it_beats_the_best_single_models_at_the_same_cost(router, train):
    quality = train.ok.mean(0)
    costs = train.cost_usd.mean(0)
    assert router.expected["quality"] > np.interp(3e-4, costs, quality) + 0.01
    assert router.expected["cost_usd"] == pytest.approx(3e-4)
    assert router.data["fell_back"] is False


@pytest.mark.slow
def test_the_same_data_give_the_same_router(few, fitted):
    assert fit_routing(few, few_plan()).version == fitted.version
    assert fit_routing(few, few_plan(budget_usd=6e-5)).version != fitted.version


class FakeEncoder:
    """Made-up vectors: how hard the prompt is for the models, or nothing."""

    digest = "made up"

    def __init__(self, vectors):
        self._vectors = vectors

    def embed(self, texts):
        return self._vectors[: len(texts)]


@pytest.fixture(scope="module")
def telling(few):
    return np.random.default_rng(0).standard_normal((len(few), 3)) + 3 * few.ok.mean(1, keepdims=True)


@pytest.fixture(scope="module")
def reader(few, telling):
    """Fitted with an encoder whose vectors tell something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve_app.learning.encoder.load_encoder", lambda name: FakeEncoder(telling))
        return fit_routing(few, few_plan(encoder="minilm"))


def test_prompts_are_read_where_they_tell_something_and_left_alone_where_not(
    few, telling, reader, monkeypatch, tmp_path
):
    for vectors, encoder in ((telling, "minilm"), (np.ones((len(few), 3)), None)):
        fake = FakeEncoder(vectors)
        monkeypatch.setattr("serve_app.learning.encoder.load_encoder", lambda name, fake=fake: fake)
        found = reader if encoder else fit_routing(few, few_plan(encoder="minilm"))
        assert found.encoder == encoder
        save_routing(found, tmp_path)
        assert load_routing(tmp_path).version == found.version
        quality = [found.start(Prompt(50, 0.5, vector)).quality["weak"] for vector in (vectors[0], vectors[0] + 1)]
        assert (quality[1] > quality[0]) == (encoder is not None)


def test_a_router_of_another_encoder_is_refused(reader, telling, monkeypatch, tmp_path):
    fake = FakeEncoder(telling)
    monkeypatch.setattr("serve_app.learning.encoder.load_encoder", lambda name: fake)
    save_routing(reader, tmp_path)
    fake.digest = "another"
    with pytest.raises(ConfigError, match="made up"):
        load_routing(tmp_path)


def test_pools_may_have_other_names(few):
    plan = few_plan(pools={"weak": "small", "middle": "large"})
    assert fit_routing(few, plan).pools == ("small", "large")


def with_priors(recorded):
    rng = np.random.default_rng(0)
    judged = tuple(tuple(replace(j, prior=float(rng.random())) for j in row) for row in recorded.evidence)
    return replace(recorded, evidence=judged)


def test_answers_may_be_judged_by_a_signal(few):
    plan = few_plan(confidence=ConfidencePlan(signals=(Prior(),)))
    found = fit_routing(with_priors(few), plan)
    assert found.signals == {"weak": Prior(), "middle": Prior()}


def test_several_signals_are_combined_for_each_pool(train):
    samples = tuple(tuple(replace(j, samples=(j.text, "red")) for j in row) for row in with_priors(train).evidence)
    plan = RoutingPlan(MODELS[:2], 5e-5, confidence=ConfidencePlan(signals=(Prior(), AnswerAgreement(2))))
    found = fit_routing(replace(train, evidence=samples), plan)
    assert [s.name for s in found.signals.values()] == ["combined", "combined"]
    assert found.signals["weak"] != found.signals["middle"]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"models": ("weak",)}, ConfigError, "2 to 8 models"),
        ({"models": ("weak", "absent")}, DataError, "absent"),
        ({"budget_usd": 0.0}, ConfigError, "above 0"),
        ({"budget_usd": float("nan")}, ConfigError, "budget"),
        ({"models": MODELS[:2], "budget_usd": 1e-9}, ConfigError, "kept"),
        ({"pools": {"weak": "a", "middle": "a"}}, ConfigError, "one pool"),
    ],
)
def test_what_cannot_be_fitted_is_refused(few, change, error, says):
    plan = replace(RoutingPlan(MODELS, 3e-4), **change)
    with pytest.raises(error, match=says):
        fit_routing(few, plan)


def test_too_few_queries_are_refused(train):
    with pytest.raises(InsufficientData, match="at least 100"):
        fit_routing(train.take(range(50)), RoutingPlan(MODELS, 3e-4))


def test_queries_of_one_text_are_refused(train):
    with pytest.raises(InsufficientData, match="one text"):
        fit_routing(replace(train, prompts=("same",) * len(train)), RoutingPlan(MODELS, 3e-4))


@pytest.mark.parametrize("signals", [(AnswerAgreement(2),), (Prior(), AnswerAgreement(2))])
def test_a_signal_that_no_answer_of_a_pool_can_tell_is_refused(train, signals):
    """Samples of the weak model alone are collected as a rule."""
    samples = tuple((replace(row[0], samples=("red", "blue")), *row[1:]) for row in with_priors(train).evidence)
    plan = RoutingPlan(MODELS[:2], 5e-5, confidence=ConfidencePlan(signals=signals))
    says = "agreement .*middle.*--samples 2"
    with pytest.raises(InsufficientData, match=says):
        fit_routing(replace(train, evidence=samples), plan)


def test_a_policy_that_one_model_beats_is_not_served():
    """Estimates that are wrong throughout: the good cheap model is held for the bad one."""
    true = fixed([[0.9, 0.1]] * 20, [[1.0, 2.0]] * 20)
    wrong = replace(true, quality=np.stack([np.tile([0.1, 0.9], (20, 1))] * 4))
    shaped = choose_shape(wrong, "any")
    mixture, fell_back = within_budget(wrong, shaped, 2.0)
    assert fell_back
    assert mixture.policy(0.5) == always(0)


def test_a_policy_holds_where_no_single_model_of_its_cost_is_better():
    right = fixed([[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10, [[1.0, 2.0]] * 20)
    wrong = replace(right, quality=np.stack([right.quality[0][:, ::-1]] * 4))
    shaped = choose_shape(right, "any")
    mixture, _ = within_budget(right, shaped, 1.5)
    assert holds(right, mixture) and not holds(wrong, mixture)


def test_a_policy_that_is_as_good_is_served():
    tables = fixed([[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10, [[1.0, 2.0]] * 20)
    _, fell_back = within_budget(tables, choose_shape(tables, "any"), 1.5)
    assert not fell_back


def test_the_area_is_the_mean_quality_over_the_range():
    points = np.array([[3.0, 0.9], [1.0, 0.5], [1.0, 0.4]])
    assert mean_quality(points, 1.0, 3.0) == pytest.approx(0.7)
    assert mean_quality(points, 3.0, 5.0) == pytest.approx(0.9)
    assert mean_quality(points, 0.0, 1.0) == pytest.approx(0.5)
    assert mean_quality(points, 2.0, 2.0) == pytest.approx(0.7)
