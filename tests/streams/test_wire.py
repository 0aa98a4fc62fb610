""""""

import numpy as np

from serve_app.streams.base import (
    EventBatch,
    ObservedEvent,
    arrays_from_bytes,
    arrays_to_bytes,
    batch_from_json,
    batch_to_json,
)
from serve_app.streams.online.base import Episode, LabeledEvent

WALK = Episode(None, None, ((0.1, 0.9), (1 / 3, 2 / 3)), (0.7, 0.25), "deferred", 4)


def test_a_batch_comes_back_the_same_to_the_last_bit():
    events = (
        ObservedEvent(Episode(1, 0, ((0.1, 0.9), (0.8, 0.2)), (0.6, 0.1), "confident", 3)),
        LabeledEvent("Ö \u2028\n", 1, WALK, "d1"),
    )
    batch = EventBatch("gateway-1", 7, "mood", "ab", (*events, LabeledEvent("", None, WALK)), lost=2, failed=1)
    line = batch_to_json(batch)
    assert b"\n" not in line
    assert batch_from_json(line) == batch


def test_arrays_come_back():
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.array([3], dtype=np.int64)}
    found = arrays_from_bytes(arrays_to_bytes(arrays))
    assert found.keys() == arrays.keys()
    assert all((found[k] == arrays[k]).all() and found[k].dtype == arrays[k].dtype for k in arrays)
