""""""

from math import isnan, nan

import numpy as np
import pytest

from benchmarks.automix import lift
from serve_app.cascade.fitting.automix import (
    GOOD,
    HOPELESS,
    NEEDY,
    LabelledQueries,
    Pomdp,
    accept_from,
    accept_outside,
    escalated,
    fit_double_threshold,
    fit_pomdp,
    fit_threshold,
    incremental_benefit,
)
from serve_app.errors import InsufficientData

GROUP = 40


def three_kinds() -> LabelledQueries:
    """Hopeless at p = 0.1, needy at 0.5, good at 0.9: 40 queries each, the small model costs 1 with its verdicts."""
    p = np.repeat([0.1, 0.5, 0.9], GROUP)
    small = np.repeat([0.0, 0.0, 1.0], GROUP)
    large = np.repeat([0.0, 1.0, 1.0], GROUP)
    return LabelledQueries(p, small, large, np.full(3 * GROUP, 1.0), np.full(3 * GROUP, 50.0))


def test_states_by_hand():
    assert three_kinds().states.reshape(3, GROUP)[:, 0].tolist() == [HOPELESS, NEEDY, GOOD]


def test_means_count_both_calls():
    assert three_kinds().means(np.repeat([False, True, False], GROUP)) == pytest.approx((2 / 3, 1 + 50 / 3))


def test_one_threshold_must_pay_for_the_hopeless():
    labelled = three_kinds()
    found = fit_threshold(labelled, budget=1 + 2 * 50 / 3)
    assert found == accept_from(0.9)
    assert labelled.means(escalated(found, labelled.p)) == pytest.approx((2 / 3, 1 + 100 / 3))
    assert labelled.means(escalated(fit_threshold(labelled, budget=20), labelled.p)) == pytest.approx((1 / 3, 1))


@pytest.mark.parametrize("fit", [fit_double_threshold, fit_pomdp])
def test_the_middle_band_alone_is_asked_again(fit):
    labelled = three_kinds()
    found = fit(labelled, budget=20)
    assert [found.probability(p) for p in (0.1, 0.5, 0.9)] == [1, 0, 1]
    assert labelled.means(escalated(found, labelled.p)) == pytest.approx((2 / 3, 1 + 50 / 3))


@pytest.mark.parametrize("fit", [fit_threshold, fit_double_threshold, fit_pomdp])
def test_without_budget_nothing_is_asked(fit):
    labelled = three_kinds()
    assert not escalated(fit(labelled, budget=1.0), labelled.p).any()


def test_the_pomdps_belief_is_counted():
    found = Pomdp.observed(three_kinds(), price=0.3, bins=2)
    common = 41 / 123
    below, above = 40 + 1.0, 80 + 1.0  # one imagined query a bin
    assert found.edges == (0.5,)
    assert found.belief[0] == pytest.approx((common / below, common / below, (40 + common) / below))
    assert found.belief[1] == pytest.approx(((40 + common) / above, (40 + common) / above, common / above))
    assert found.gain == (1.0, 0.0, 0.0)
    accepts = found.acceptance()
    assert accepts.probability(0.2) == 1 and accepts.probability(0.7) == 0


def test_each_fraction_of_eight_verdicts_has_its_own_bin():
    """Seven of eight yes is another observation than eight of eight: here only the first is worth a large call."""
    p = np.repeat([7 / 8, 1.0], GROUP)
    small = np.repeat([0.0, 1.0], GROUP)
    ones = np.ones(2 * GROUP)
    found = Pomdp.observed(LabelledQueries(p, small, ones, ones, 50 * ones), price=0.5)
    bins = np.searchsorted(found.edges, np.arange(9) / 8, side="right")
    assert bins.tolist() == list(range(9)) and len(found.belief) == 9
    accepts = found.acceptance()
    assert accepts.probability(7 / 8) == 0 and accepts.probability(1.0) == 1


def test_a_higher_price_asks_less():
    labelled = three_kinds()
    asked = [
        int(escalated(Pomdp.observed(labelled, price).acceptance(), labelled.p).sum())
        for price in np.linspace(0, 1.2, 9)
    ]
    assert asked == sorted(asked, reverse=True) and asked[0] > asked[-1] == 0


def test_an_unknown_verdict_is_never_taken():
    for accepts in (accept_from(0.0), accept_outside(0.5, 0.6), Pomdp.observed(three_kinds(), 2.0).acceptance()):
        assert accepts.probability(nan) == 0.0 and escalated(accepts, np.array([nan])).all()


def takes_by_definition(pomdp: Pomdp, p: float) -> bool:
    belief = pomdp.belief[int(np.searchsorted(pomdp.edges, p, side="right"))]
    return float(np.dot(belief, pomdp.gain)) <= pomdp.price


def test_acceptance_is_what_the_deciders_define():
    pomdp = Pomdp.observed(three_kinds(), 0.2)
    for p in np.linspace(0, 1, 33).tolist():
        assert accept_from(0.4).probability(p) == (p >= 0.4)
        assert accept_outside(0.2, 0.7).probability(p) == (not 0.2 <= p < 0.7)
        assert accept_outside(0.3, 0.3).probability(p) == 1.0
        assert pomdp.acceptance().probability(p) == takes_by_definition(pomdp, p)


def test_the_benefit_and_its_lift_by_hand():
    small, large = (0.5, 1.0), (0.9, 51.0)
    assert incremental_benefit(0.9, 51.0, small) == pytest.approx(0.008)
    assert lift(0.7, 26.0, small, large) == pytest.approx(0.0)
    assert lift(0.8, 26.0, small, large) == pytest.approx(0.5)
    assert isnan(incremental_benefit(0.9, 1.0, small)) and isnan(lift(0.8, 26.0, small, (0.5, 51.0)))


def test_too_few_and_unequal():
    ones = np.ones(5)
    with pytest.raises(InsufficientData, match=r"20 labelled queries, .*5"):
        LabelledQueries(ones, ones, ones, ones, ones)
    with pytest.raises(ValueError, match="one p"):
        LabelledQueries(ones, ones[:2], ones, ones, ones)
    with pytest.raises(ValueError, match="rise"):
        accept_outside(0.6, 0.5)
