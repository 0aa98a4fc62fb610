from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.transformers.scheduler import BatchLimits, Scheduler
from tests.engines.transformers.sequences import request


def scheduler(*requests, **bounds) -> Scheduler:
    made = Scheduler(BatchLimits(**{"rows": 4, **bounds}))
    for each in requests:
        made.add(each)
    return made


def test_first_come_first_served_up_to_the_rows():
    asked = [request() for _ in range(6)]
    queue = scheduler(*asked)
    joined = queue.admit([])
    assert [s.request for s in joined] == asked[:4]
    assert queue.admit(joined) == []
    assert [s.request for s in queue.admit(joined[:2])] == asked[4:]
    assert queue.waiting == 0


def test_choices_of_one_request_may_join_apart_and_are_read_once():
    many = request(n=6)
    queue = scheduler(many, prefill_tokens=3)
    assert queue.admit([]) == many.sequences[:4]
    assert queue.admit(many.sequences[:1]) == many.sequences[4:]


def test_cancelled_requests_are_dropped():
    first, second = request(), request()
    first.cancelled = True
    assert scheduler(first, second).admit([]) == second.sequences


def test_a_pass_reads_a_bounded_number_of_padded_tokens():
    short, long, last = request([5] * 10), request([5] * 40), request([5] * 10)
    queue = scheduler(short, long, last, prefill_tokens=79)
    assert queue.admit([]) == short.sequences
    assert queue.admit(short.sequences) == long.sequences, "a long prompt is read alone, but it is read"
    assert queue.admit([]) == last.sequences


def test_a_pass_reads_a_bounded_number_of_prompts():
    queue = scheduler(request(), request(), request(), prefill_rows=2)
    assert len(queue.admit([])) == 2


def test_the_cache_is_bounded_by_rows_times_the_longest_end():
    big, small = request(max_tokens=47), request(max_tokens=7)
    queue = scheduler(big, small, small, cells=99)
    joined = queue.admit([])
    assert joined == big.sequences
    assert queue.admit([]) == [*small.sequences, *small.sequences]


def test_one_alone_joins_whatever_its_size():
    huge = request([5] * 5000, room=9999)
    assert scheduler(huge, cells=10, prefill_tokens=10).admit([]) == huge.sequences


def test_clear_gives_what_waited():
    asked = request(n=2)
    queue = scheduler(asked)
    assert queue.clear() == asked.sequences
    assert queue.waiting == 0


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 5)), max_size=12), st.integers(1, 6))
def test_everybody_gets_in_once_and_in_order(sizes, rows):
    asked = [request([5] * length, n=n) for length, n in sizes]
    queue = scheduler(*asked, rows=rows, prefill_tokens=100, prefill_rows=3, cells=400)
    joined = []
    while queue.waiting:
        step = queue.admit([])
        assert 0 < len(step) <= rows
        joined += step
    assert joined == [s for r in asked for s in r.sequences]
