import logging

from serve_app.observability.batched import Batched


def test_work_waits_for_others_and_keeps_its_order():
    done: list[int] = []
    batched = Batched(done.append)
    for item in range(31):
        batched.add(item)
    assert done == []
    batched.add(31)
    assert done == list(range(32))


def test_a_reading_has_all():
    done: list[int] = []
    batched = Batched(done.append)
    batched.add(1)
    batched.drain()
    batched.drain()
    assert done == [1]


def test_what_fails_is_logged_and_costs_nothing_else(caplog):
    done: list[float] = []
    batched = Batched(lambda item: done.append(1 / item))
    with caplog.at_level(logging.ERROR, "jethro.observability"):
        for item in (1, 0, 2):
            batched.add(item)
        batched.drain()
    assert done == [1.0, 0.5]
    assert len(caplog.records) == 1
