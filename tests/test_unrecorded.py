"""Whether a task, or the process, works for a request of which nothing may be kept."""

import asyncio

from serve_app.unrecorded import Undecided, any_ever, any_open, is_unrecorded, unrecorded


async def test_tasks_that_a_request_starts_belong_to_it() -> None:
    async def seen() -> bool:
        return is_unrecorded()

    with unrecorded():
        task = asyncio.create_task(seen())
        assert any_open() and any_ever()
    assert await task and not is_unrecorded() and not any_open() and any_ever()
    with unrecorded(False):
        assert not is_unrecorded() and not any_open()


def test_until_its_class_is_known_a_request_is_of_the_strictest() -> None:
    for required in (True, False):
        with Undecided() as undecided:
            assert is_unrecorded() and not any_open()
            undecided.decide(required)
            undecided.decide(required)
            assert is_unrecorded() is any_open() is required
        assert not is_unrecorded() and not any_open()
