"""The vote: who leads, how ties end, and when outstanding calls change nothing: the cheap rule against all cases."""

from itertools import product
from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from serve_app.ensemble.base import Vote
from serve_app.ensemble.serving.voting import Voting, strengths
from tests.cascade.fakes import pool
from tests.ensemble.serving.fakes import plan

STRENGTH = {"a": 0, "b": 1, "c": 2}
VOTES = st.lists(st.builds(Vote, st.sampled_from("abc"), st.sampled_from("xyz")), max_size=6)


def test_a_tie_goes_to_the_strongest() -> None:
    votes = [Vote("c", "x"), Vote("a", "y"), Vote("b", "z")]
    assert Voting(STRENGTH).leading(votes) == ("x", 1 / 3)
    assert Voting({"a": 2, "b": 1, "c": 0}).leading(votes) == ("y", 1 / 3)


@given(votes=VOTES, outstanding=st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
def test_what_is_settled_stays_whatever_the_others_say(votes: list[Vote], outstanding: list[str]) -> None:
    voting = Voting(STRENGTH)
    if not voting.is_settled(votes, outstanding, 0.0):
        return
    leader, _ = voting.leading(votes)
    for said in product("xyzw", repeat=len(outstanding)):
        assert voting.leading([*votes, *map(Vote, outstanding, said)])[0] == leader


@given(votes=VOTES, outstanding=st.lists(st.sampled_from("abc"), min_size=1, max_size=2))
def test_it_stays_as_sure_as_is_required(votes: list[Vote], outstanding: list[str]) -> None:
    voting = Voting(STRENGTH)
    if voting.is_settled(votes, outstanding, 0.6):
        for said in product("xyzw", repeat=len(outstanding)):
            assert voting.leading([*votes, *map(Vote, outstanding, said)])[1] >= 0.6


def test_a_clear_lead_is_settled() -> None:
    assert Voting(STRENGTH).is_settled([Vote("a", "x")] * 4 + [Vote("b", "y")], ["c", "c"], 0.5)
    assert not Voting(STRENGTH).is_settled([Vote("a", "x")] * 2 + [Vote("b", "y")], ["c", "c"], 0.5)
    assert not Voting(STRENGTH).is_settled([], ["c"], 0.0)


class Slow:
    """Compares every two texts, as a model of free texts does, and counts."""

    calls = 0

    def for_query(self, query: object) -> "Slow":
        return self

    def probability(self, votes: object) -> tuple[str, float]:
        self.calls += 1
        return votes[0].answer, 0.5  # type: ignore[index]

    def sure(self, votes: object) -> float:
        return self.probability(votes)[1]


def test_fifty_different_answers_ask_the_model_nothing_on_the_way() -> None:
    model = Slow()
    votes = [Vote("a", f"answer {i}") for i in range(50)]
    for i in range(1, 50):
        assert not Voting(STRENGTH, model).is_settled(votes[:i], ["a"] * (50 - i), 0.9) or i == 49
    assert model.calls <= 3


def test_a_probability_that_is_none_leaves_the_plurality() -> None:
    class Odd(Slow):
        def probability(self, votes: object) -> tuple[str, float]:
            return "x", float("nan")

    voting = Voting(STRENGTH, Odd())
    assert voting.leading([Vote("a", "y"), Vote("b", "y"), Vote("c", "x")]) == ("y", 2 / 3)
    assert voting.failed == ["agreement model gave nan"]


def test_strength_is_quality_then_price_then_place() -> None:
    pools = {n: pool("x", n, price) for n, price in {"a": 9.0, "b": 1.0, "c": 1.0, "d": 2.0}.items()}
    made = plan(("a", "b"), ("c", "d"), expected={"quality:b": 0.7, "quality:c": 0.9})
    assert sorted(strengths(made, pools), key=strengths(made, pools).__getitem__) == ["d", "a", "b", "c"]


def test_the_vote_of_fifty_takes_no_time_to_speak_of() -> None:
    votes = [Vote("a", f"answer {i % 7}") for i in range(50)]
    started = perf_counter()
    for _ in range(100):
        Voting(STRENGTH).leading(votes)
    assert perf_counter() - started < 1.0
