import pytest

from serve_app.cascade.serving.streaming import Race, RaceMeter
from tests.cascade.fakes import query


@pytest.mark.parametrize(
    ("prior", "borderline"), [(0.29, False), (0.3, True), (0.7, True), (0.71, False), (None, False)]
)
def test_only_what_is_borderline_races(prior: float | None, borderline: bool) -> None:
    assert Race("mine", 0.3, 0.7, 0.1).is_borderline(prior) is borderline


def test_without_traffic_there_is_nothing_to_waste() -> None:
    assert Race("mine", 0.0, 1.0, 0.5).reserve(query("x" * 40)) == 0


def test_races_under_way_count_as_wasted_until_they_are_over() -> None:
    race = Race("mine", 0.0, 1.0, 0.1, RaceMeter(all_tokens=200.0))
    asked = query("x" * 40)
    assert [race.reserve(asked) for _ in range(3)] == [10, 10, 0]
    race.release(10, 0)
    assert race.reserve(asked) == 10
    assert (race.meter.races, race.meter.lost) == (3, 0)


def test_the_share_stays_under_the_cap_whatever_comes() -> None:
    race = Race("mine", 0.0, 1.0, 0.05)
    asked = query("x" * 40)
    for _ in range(5000):
        reserved = race.reserve(asked)
        if reserved:
            race.release(reserved, 10)
        race.meter.spent(30)
        assert race.meter.share <= 0.05
    assert race.meter.lost > 500


def test_the_past_counts_less_and_less() -> None:
    meter = RaceMeter()
    for _ in range(300):
        meter.spent(10_000)
    assert meter.all_tokens <= 1_010_000
