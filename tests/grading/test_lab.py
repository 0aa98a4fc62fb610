""""""

from random import Random

import pytest

from serve_app.errors import DataError
from serve_app.grading import get_metric
from serve_app.lab.tasks import CELLS, TASKS
from tests.grading.rows import dataset


async def test_every_task_grades_its_own_answer():
    rng = Random(0)
    items = [TASKS[task].generate(rng, level) for task, level in CELLS]
    rows = dataset(
        {"small": [[f" {i.answer}\n", f"{i.answer}!", ""] for i in items]},
        [i.answer for i in items],
        [f"{i.task}-{i.difficulty}" for i in items],
        [i.prompt for i in items],
    )
    after = await get_metric("lab").score(rows)
    assert after.weak.quality.tolist() == [[1, 0, 0]] * len(CELLS)


@pytest.mark.parametrize("group", ["", "add", "add-", "add-x", "chess-1", "-1"])
async def test_a_group_that_is_no_task_is_named(group):
    with pytest.raises(DataError, match=f"'r0': .*'{group}'"):
        await get_metric("lab").score(dataset({"small": [["1"]]}, ["1"], [group]))
