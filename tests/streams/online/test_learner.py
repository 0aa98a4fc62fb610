"""The cascade as a whole, on a stream that is easy to learn."""

import json
import math

import numpy as np
import pytest

from serve_app.errors import ConfigError, DataError
from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.streams.online.learner import OnlineCascade
from serve_app.streams.online.policy import policy_from
from serve_app.streams.online.settings import FIXES, plain, settings_of

LLM = Episode(None, None, (), (), "deferred", 0)


def test_it_keeps_its_share_and_is_mostly_right(spec, queries, driven):
    learner = OnlineCascade(spec(llm_share=0.25))
    asked = queries(600, 0)
    told = driven(learner, asked)
    assert np.mean([level is None for level, _ in told]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([answer == label for (_, answer), (_, label) in zip(told, asked, strict=True)]) > 0.9


@pytest.mark.parametrize("audit_share", [0.0, 0.05])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_a_short_stream_that_nothing_is_sure_of_makes_no_call_beyond_its_share(
    spec, queries, driven, share, audit_share
):
    rng = np.random.default_rng(0)
    unlearnable = [(text, int(rng.integers(3))) for text, _ in queries(200, 0)]
    learner = OnlineCascade(spec(llm_share=share, horizon=200, audit_share=audit_share))
    told = driven(learner, unlearnable)
    assert sum(level is None for level, _ in told) == round(200 * share)
    after = driven(learner, unlearnable, seed=1)
    lent = 200 / 10 * share  # of the next tenth of a horizon
    assert sum(level is None for level, _ in after) <= math.ceil(200 * share + lent), "what follows has the same share"


def test_it_beats_asking_at_random(spec, queries, driven):
    """The paper's effect: labels asked where the level is unsure are worth more than as many asked anywhere."""
    asked = queries(600, 3)
    answers = driven(OnlineCascade(spec(llm_share=0.15)), asked)
    cascade = np.mean([answer == label for (_, answer), (_, label) in zip(answers, asked, strict=True)])
    learner, rng, right = OnlineCascade(spec(llm_share=0.15)), np.random.default_rng(0), 0
    for text, label in asked:
        row = learner._students[0].predictor.features(text)
        if rng.random() < 0.15:
            learner.learn(LabeledEvent(text, label, LLM))
            right += 1
        else:
            right += int(learner._students[0].predictor.of(row).argmax() == label)
    assert cascade > right / len(asked) + 0.02


@pytest.mark.parametrize("levels", [("logistic",), ("logistic", "encoder")])
@pytest.mark.parametrize("fixes", [{}, plain()])
def test_a_restored_learner_goes_on_bit_for_bit(spec, queries, driven, levels, fixes):
    given = spec(levels=levels, fixes=fixes, llm_share=None, mu=3e-4, horizon=400)
    given = given if fixes else spec(levels=levels, horizon=190)
    whole, cut = OnlineCascade(given), OnlineCascade(given)
    driven(whole, queries(130, 0))
    driven(cut, queries(130, 0))
    arrays, values = cut.state()
    again = OnlineCascade.restored(given, arrays, json.loads(json.dumps(values)))
    assert driven(whole, queries(60, 1), 1) == driven(again, queries(60, 1), 1)
    ours, theirs = whole.state(), again.state()
    assert ours[1] == theirs[1]
    assert set(ours[0]) == set(theirs[0])
    assert all(np.array_equal(ours[0][k], theirs[0][k]) for k in ours[0])
    assert whole.figures() == again.figures()


def test_a_state_is_a_copy(spec, queries, driven):
    learner = OnlineCascade(spec())
    driven(learner, queries(100, 0))
    arrays, _ = learner.state()
    kept = {k: v.copy() for k, v in arrays.items()}
    driven(learner, queries(100, 1))
    assert all(np.array_equal(kept[k], arrays[k]) for k in kept)


def test_a_policy_comes_back_from_its_arrays(spec, queries, driven):
    learner = OnlineCascade(spec(levels=("logistic", "encoder")))
    driven(learner, queries(80, 0))
    policy = learner.policy()
    again = policy_from(learner.spec, policy.arrays())
    rng = np.random.default_rng(0)
    for text, _ in queries(30, 1):
        coins = rng.random(3)
        assert again.act(text, coins) == policy.act(text, coins)


def test_a_policy_that_is_out_does_not_change(spec, queries, driven):
    learner = OnlineCascade(spec())
    driven(learner, queries(150, 0))
    policy = learner.policy()
    before = [policy.act(text, (0.9, 0.9)) for text, _ in queries(20, 1)]
    driven(learner, queries(200, 2))
    assert [policy.act(text, (0.9, 0.9)) for text, _ in queries(20, 1)] == before
    assert learner.policy().version > policy.version
    assert learner.policy() is learner.policy()


@pytest.mark.slow
def test_early_exit_leaves_the_encoder_out(spec, queries, driven):
    learner = OnlineCascade(spec(levels=("logistic", "encoder"), mu=0.0005, llm_share=None))
    driven(learner, queries(200, 0))
    episode = Episode(0, 1, ((0.1, 0.8, 0.1),), (0.2,), "confident", 1)
    learner.observe(episode)
    figures = learner.figures()
    assert figures["computed"]["logistic"] >= figures["computed"]["encoder"] + 1


@pytest.mark.parametrize(("early_exit", "computed"), [(True, 1), (False, 2)])
def test_a_confident_first_level_ends_the_walk(spec, queries, early_exit, computed):
    learner = OnlineCascade(spec(levels=("logistic", "encoder"), fixes={"early_exit": early_exit}))
    arrays = dict(learner.policy().arrays())
    del arrays["terms"]  # the thresholds are these
    arrays["thresholds"], arrays["act"] = np.array([1.0, 1.0]), np.array([0.0, 0.0])
    arrays["beta"] = np.array([0.5, 0.5])
    episode = policy_from(learner.spec, arrays).act("redword1", (0.9, 0.9, 0.9))
    assert (episode.level, episode.why, len(episode.probabilities)) == (0, "confident", computed)
    pushed = policy_from(learner.spec, arrays).act("redword1", (0.9, 0.1, 0.9))
    assert (pushed.level, pushed.why) == (1, "confident")
    explored = policy_from(learner.spec, arrays).act("redword1", (0.9, 0.1, 0.1))
    assert (explored.level, explored.why) == (None, "explored")


@pytest.mark.slow
def test_audits_never_stop(spec, queries, driven):
    learner = OnlineCascade(spec(audit_share=0.1))
    driven(learner, queries(600, 0))
    figures = learner.figures()
    assert figures["why"]["audit"] > 33
    assert figures["agreement"] > 0.8
    without = OnlineCascade(spec(audit_share=0.1, fixes={"floor": False}))
    driven(without, queries(600, 0))
    assert without.figures()["why"]["audit"] == 0


@pytest.mark.slow
def test_exploration_has_a_floor_where_the_released_code_has_none(spec, queries, driven):
    floored, released = OnlineCascade(spec(explore_floor=0.05)), OnlineCascade(spec(explore_floor=0.05, fixes=plain()))
    for learner in (floored, released):
        for text, label in queries(400, 0):
            learner.learn(LabeledEvent(text, label, LLM))
    assert floored.beta == (0.05,)
    assert released.beta[0] < 1e-3


@pytest.mark.slow
def test_swapped_labels_are_noticed_and_learned_anew_and_not_without_the_mend(spec, queries, driven):
    before, after = queries(900, 0), queries(900, 1, shift=1)
    right = {}
    for drift in (True, False):
        learner = OnlineCascade(spec(horizon=1800, audit_share=0.05, fixes={"drift": drift}))
        driven(learner, before)
        assert learner.figures()["drift_alarms"] == 0
        told = driven(learner, after, 1)
        right[drift] = np.mean([a == y for (_, a), (_, y) in zip(told[-400:], after[-400:], strict=True)])
        assert learner.figures()["drift_alarms"] == (1 if drift else 0)
    assert right[True] > 0.9
    assert right[True] > right[False] + 0.1


def test_an_answer_that_parses_to_no_label_is_counted_and_not_learned_from(spec):
    learner = OnlineCascade(spec())
    before = learner.policy()
    learner.learn(LabeledEvent("redword1", None, LLM))
    assert learner.figures()["unparsed"] == 1
    assert learner.figures()["labels_learned"] == 0
    assert learner.policy() is before


def test_a_label_outside_the_set_is_refused_and_nothing_is_learned(spec):
    learner = OnlineCascade(spec())
    with pytest.raises(DataError, match="label 3"):
        learner.learn(LabeledEvent("redword1", 3, LLM))
    assert learner.figures()["labels_learned"] == 0


def test_a_state_of_other_labels_or_a_damaged_one_is_refused(spec, queries, driven):
    learner = OnlineCascade(spec())
    driven(learner, queries(60, 0))
    arrays, values = learner.state()
    with pytest.raises(DataError, match="the stream"):
        OnlineCascade.restored(spec(labels=("red", "green")), arrays, values)
    with pytest.raises(DataError, match="damaged"):
        OnlineCascade.restored(spec(), {k: v for k, v in arrays.items() if "bias" not in k}, values)
    with pytest.raises(DataError, match="damaged"):
        OnlineCascade.restored(spec(), arrays, {k: v for k, v in values.items() if k != "tally"})


def test_too_few_coins_are_refused(spec):
    with pytest.raises(ValueError, match="2 coins"):
        OnlineCascade(spec()).policy().act("x", (0.5,))


def test_where_the_llm_cannot_be_asked_the_levels_answer_even_in_a_warm_up(spec, queries, driven):
    learner = OnlineCascade(spec(explore_floor=0.9, audit_share=0.9, params={"front_load": 1.0}))
    driven(learner, queries(50, 0))
    policy = learner.policy()
    assert policy.act("redword1", (0.0, 0.0)).why == "warm-up"
    episode = policy.act("redword1 redword2 redword3", None)
    assert episode.why in ("confident", "deferred")
    assert int(np.argmax(episode.probabilities[-1])) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": ("a",)}, "labels"),
        ({"labels": ("a", "a")}, "labels"),
        ({"mu": 0.1}, "mu and llm_share"),
        ({"llm_share": None}, "mu and llm_share"),
        ({"llm_share": 0.0}, "llm_share"),
        ({"levels": ("bert",)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"fixes": {"magic": True}}, "'magic'"),
        ({"audit_share": 1.0}, "audit_share"),
        ({"explore_floor": -0.1}, "explore_floor"),
        ({"horizon": 0}, "horizon"),
        ({"params": {"speed": 1}}, "'speed'"),
        ({"params": {"logistic.decay": 2}}, "decay"),
        ({"params": {"replay": 0}}, "replay"),
        ({"params": {"balance": 0.5}}, "balance"),
        ({"params": {"llm_cost": 0.0}}, "llm_cost .*1e-06"),
        ({"params": {"drift_alarm": 0.0}}, "drift_alarm .*1e-06"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec, changed, said):
    with pytest.raises(ConfigError, match=said):
        OnlineCascade(spec(**changed))


def test_parameters_go_over_the_defaults(spec):
    settings = settings_of(spec(params={"logistic.cache_size": 4, "front_load": 0.3, "replay": 10}))
    assert (settings.levels[0].cache_size, settings.front_load, settings.replay) == (4, 0.3, 10)
    assert settings.cost_after(0) == settings.llm_cost


def test_plain_is_every_mend_off():
    assert plain() == dict.fromkeys(FIXES, False)
    assert plain({"drift": True})["drift"]
