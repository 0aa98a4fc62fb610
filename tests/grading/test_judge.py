""""""

import pytest

from serve_app.errors import ConfigError, DataError
from serve_app.grading import get_metric
from tests.grading.fake_judge import FakeJudge, by_reference
from tests.grading.rows import dataset

ROWS = dataset({"small": [["2", "3"], ["4", "4"]], "large": [["2", "2"], ["5", "4"]]}, ["2", "4"])


async def test_ratings_become_qualities():
    judge = FakeJudge(by_reference)
    after = await get_metric("judge", pool=judge).score(ROWS)
    assert after.weak.quality.tolist() == [[1, 0], [1, 1]]
    assert after.strong.quality.tolist() == [[1, 1], [0, 1]]
    assert len(judge.queries) == 4, "equal answers to one query are asked once"
    assert after.about["metric_options"] == {"judge": "fake-judge", "reference": True}
    told = after.about["metric_told"]
    assert (told["judged"], told["unparsable"], told["dropped"]) == (8, 0, 0)
    assert told["cost_usd"] == pytest.approx(4 * 200e-6)


@pytest.mark.parametrize(("rating", "quality"), [(1, 0), (4, 1 / 3), (10, 1)])
async def test_the_scale(rating, quality):
    after = await get_metric("judge", pool=FakeJudge(lambda _: f"RATING: {rating}")).score(ROWS)
    assert after.weak.quality[0, 0] == pytest.approx(quality)


async def test_the_reference_is_shown_only_where_wanted_and_known():
    for wanted, references, shown in ((True, ["2", None], 1), (False, ["2", "4"], 0), (True, (), 0)):
        judge = FakeJudge(lambda parts: "RATING: 5")
        rows = dataset({"small": [["2"], ["4"]]}, references)
        await get_metric("judge", pool=judge, reference=wanted).score(rows)
        assert sum("reference]" in prompt for prompt in judge.prompts) == 2 * shown / 2


async def test_an_answer_without_a_rating_is_counted_and_never_scored():
    lines = []
    judge = FakeJudge(lambda parts: "I would not say." if parts["answer"] == "3" else by_reference(parts))
    after = await get_metric("judge", pool=judge).score(ROWS, lines.append)
    assert after.ids == ("r1",) and after.references == ("4",)
    assert after.weak.quality.tolist() == [[1, 1]] and after.strong.quality.tolist() == [[0, 1]]
    assert (after.about["metric_told"]["unparsable"], after.about["metric_told"]["dropped"]) == (1, 1)
    assert lines == ["judge: 4 of 4 replies", "judge: 1 replies hold no verdict; 1 rows are left out"]


async def test_a_judge_that_never_says_is_quoted():
    with pytest.raises(DataError, match=r"'no idea'"):
        await get_metric("judge", pool=FakeJudge(lambda _: "no idea\n")).score(ROWS)


async def test_no_rows_are_no_fault():
    assert len(await get_metric("judge", pool=FakeJudge(by_reference)).score(ROWS.take([]))) == 0


def test_a_judge_needs_a_pool():
    with pytest.raises(ConfigError, match=r"metric 'judge': .*'pool'"):
        get_metric("judge")


async def test_a_journal_is_read_again(tmp_path):
    journal = str(tmp_path / "j.jsonl")
    first = await get_metric("judge", pool=FakeJudge(by_reference), journal=journal).score(ROWS)
    silent = FakeJudge(lambda _: 1 / 0)
    second = await get_metric("judge", pool=silent, journal=journal).score(ROWS)
    assert second.weak.quality.tolist() == first.weak.quality.tolist() and silent.queries == []
