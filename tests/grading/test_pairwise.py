""""""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import DataError
from serve_app.grading import get_metric
from serve_app.grading.judge import JudgedMatches, Match, PairwiseJudge
from tests.grading.fake_judge import FakeJudge, always_first, by_length
from tests.grading.rows import dataset

ROWS = dataset({"small": [["a"], ["bbb"], ["cc"]], "large": [["aa"], ["b"], ["dd"]]})


async def test_both_orders_are_asked_and_a_steady_judge_is_believed():
    judge = FakeJudge(by_length)
    after = await get_metric("judge_pairwise", pool=judge).score(ROWS)
    assert after.weak.quality.tolist() == [[0], [1], [0.5]]
    assert after.strong.quality.tolist() == [[1], [0], [0.5]]
    assert len(set(judge.prompts)) == 6
    assert after.about["quality_range"] == [0.0, 1.0]
    assert after.about["metric_told"] == {
        "matches": 3,
        "equal_answers": 0,
        "position_bias": {"asked": 3, "flipped": 0.0, "first_twice": 0.0, "second_twice": 0.0},
        "cost_usd": pytest.approx(6 * 200e-6),
        "unparsable": 0,
        "dropped": 0,
    }
    assert after.battles().outcome.tolist() == [1, 0, 0.5]


async def test_a_judge_who_looks_at_the_order_makes_ties_and_is_told_of():
    after = await get_metric("judge_pairwise", pool=FakeJudge(always_first)).score(ROWS)
    assert after.weak.quality.tolist() == after.strong.quality.tolist() == [[0.5]] * 3
    bias = after.about["metric_told"]["position_bias"]
    assert bias == {"asked": 3, "flipped": 1.0, "first_twice": 1.0, "second_twice": 0.0}


async def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    judge = FakeJudge(always_first)
    rows = dataset({"small": [["a"], ["b"]], "large": [["a"], ["b"]]})
    after = await get_metric("judge_pairwise", pool=judge).score(rows)
    assert judge.queries == [] and after.weak.quality.tolist() == [[0.5], [0.5]]
    assert after.about["metric_told"]["equal_answers"] == 2
    assert after.about["metric_told"]["position_bias"]["flipped"] == 0.0


async def test_samples_meet_in_turn_and_every_two_pools_meet():
    rows = dataset({"small": [["a", "aaaa"]], "large": [["aa", "aaa", "aaaaa"]], "huge": [["aaaaaa"]]})
    after = await get_metric("judge_pairwise", pool=FakeJudge(by_length)).score(rows)
    # small 0 meets large 0 and 2 and huge twice, small 1 large 1 and huge; large 1 beats nobody, large 0 and 2 small 0
    assert after.pools["small"].quality.tolist() == [[0, 0.5]]
    assert after.pools["large"].quality.tolist() == [[0.5, 0, 0.5]]
    assert after.pools["huge"].quality.tolist() == [[1]]


async def test_battles():
    judged = await PairwiseJudge(FakeJudge(by_length)).judge(ROWS)
    battles = judged.preferences()
    assert battles.model_a == ("m-small",) * 3 and battles.model_b == ("m-large",) * 3
    assert battles.outcome.tolist() == [0, 1, 0.5] and battles.queries == ROWS.queries


async def test_a_reply_without_a_verdict_is_no_tie():
    def script(parts: dict[str, str]) -> str:
        return "hm" if parts["first answer"] == "bbb" else by_length(parts)

    lines = []
    metric = PairwiseJudge(FakeJudge(script))
    after = await metric.score(ROWS, lines.append)
    assert after.ids == ("r0", "r2")
    assert (after.about["metric_told"]["unparsable"], after.about["metric_told"]["dropped"]) == (1, 1)
    assert lines[-1] == "judge_pairwise: 1 replies hold no verdict; 1 rows are left out"
    assert len((await metric.judge(ROWS)).preferences()) == 2
    with pytest.raises(DataError, match="no row"):
        await PairwiseJudge(FakeJudge(lambda _: "hm")).score(ROWS)


async def test_an_answer_with_another_match_stays():
    def script(parts: dict[str, str]) -> str:
        both = {parts["first answer"], parts["second answer"]}
        return "hm" if both == {"a", "aa"} else by_length(parts)

    rows = dataset({"small": [["a", "a"]], "large": [["aa", "aaa"]], "huge": [["aaaa", "aaaa"]]})
    after = await get_metric("judge_pairwise", pool=FakeJudge(script)).score(rows)
    assert len(after) == 1 and after.about["metric_told"]["unparsable"] == 2
    assert after.pools["large"].quality.tolist() == [[0, 0.5]]


async def test_one_pool_is_no_pair():
    with pytest.raises(DataError, match=r"small.*'judge_pairwise'"):
        await PairwiseJudge(FakeJudge(by_length)).score(dataset({"small": [["a"]]}))


VERDICTS = st.sampled_from(["first", "second", "tie", None])


@given(st.lists(st.tuples(VERDICTS, VERDICTS), max_size=12))
def test_outcomes_and_bias_hold_together(verdicts):
    rows = dataset({"small": [["a"]] * 12, "large": [["b"]] * 12})
    matches = tuple(Match(i, "small", 0, "large", 0) for i in range(len(verdicts)))
    forward, backward = tuple(f for f, _ in verdicts), tuple(b for _, b in verdicts)
    judged = JudgedMatches(rows, matches, forward, backward, (False,) * len(verdicts), ())
    swapped = JudgedMatches(rows, matches, backward, forward, (False,) * len(verdicts), ())
    mirrored = [None if outcome is None else 1 - outcome for outcome in swapped.outcomes]
    assert judged.outcomes == mirrored, "who is called a changes nothing"
    bias = judged.bias()
    assert bias["first_twice"] + bias["second_twice"] <= bias["flipped"] + 1e-12 <= 1 + 2e-12
    assert bias == swapped.bias()
    assert len(judged.preferences()) == bias["asked"] == sum(o is not None for o in judged.outcomes)
