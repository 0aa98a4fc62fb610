from types import SimpleNamespace

import pytest
import torch

from serve_app.engines.transformers.batch import POSITION_BLOCK, SlotCache

LAYERS, HEADS, WIDTH = 2, 3, 4


def prefilled(rows, positions, value):
    """Layers with keys `value + row` and values minus that."""
    keys = torch.full((rows, HEADS, positions, WIDTH), float(value)) + torch.arange(rows)[:, None, None, None]
    return [SimpleNamespace(keys=keys, values=-keys) for _ in range(LAYERS)]


def filled(rows=3, positions=5) -> SlotCache:
    cache = SlotCache(LAYERS)
    cache.fit(0, rows, positions)
    cache.insert(0, prefilled(rows, positions, 10), torch.arange(rows), positions)
    return cache


def keys(cache, row, position):
    found = {layer.keys[row, 0, position, 0].item() for layer in cache.layers}
    assert found == {-layer.values[row, 0, position, 0].item() for layer in cache.layers}
    (value,) = found
    return value


def test_rows_are_inserted_and_shared():
    cache = filled()
    cache.fit(3, 5, 6)
    cache.insert(3, prefilled(1, 4, 50), torch.tensor([0, 0]), 4)
    assert [keys(cache, row, 3) for row in range(5)] == [10, 11, 12, 50, 50]
    assert keys(cache, 3, 4) == 0


def test_a_step_writes_at_each_row_s_own_end():
    cache = filled()
    cache.aim(torch.arange(3), torch.tensor([5, 2, 0]))
    new = torch.full((3, HEADS, 1, WIDTH), 99.0)
    got_keys, got_values = cache.update(new, -new, 1)
    assert got_keys.shape == (3, HEADS, cache.capacity_positions, WIDTH)
    assert [got_keys[row, 0, at, 0].item() for row, at in ((0, 5), (1, 2), (2, 0))] == [99, 99, 99]
    assert got_values[0, 0, 4, 0] == -10
    assert cache.layers[0].keys[0, 0, 5, 0] == 0, "one layer at a time"


def test_moving_a_row_takes_its_positions():
    cache = filled()
    cache.move(2, 0, 4)
    assert keys(cache, 0, 3) == 12
    assert keys(cache, 0, 4) == 10


@pytest.mark.parametrize("positions", [1, POSITION_BLOCK, POSITION_BLOCK + 1, 5 * POSITION_BLOCK])
def test_capacity_is_whole_blocks(positions):
    cache = filled(positions=positions)
    assert cache.capacity_positions == -(-positions // POSITION_BLOCK) * POSITION_BLOCK


def test_growing_keeps_what_is_there():
    cache = filled()
    cache.fit(3, 9, POSITION_BLOCK + 1)
    assert (cache.capacity_rows, cache.capacity_positions) == (16, 2 * POSITION_BLOCK)
    assert [keys(cache, row, 4) for row in range(3)] == [10, 11, 12]


def test_it_shrinks_only_when_less_than_half_is_used():
    cache = filled(rows=8, positions=4 * POSITION_BLOCK)
    cache.fit(4, 4, 2 * POSITION_BLOCK)
    assert (cache.capacity_rows, cache.capacity_positions) == (8, 4 * POSITION_BLOCK)
    cache.fit(3, 3, POSITION_BLOCK)
    assert (cache.capacity_rows, cache.capacity_positions) == (8, POSITION_BLOCK)
    cache.fit(2, 2, 3)
    assert cache.capacity_rows == 2
    assert keys(cache, 1, 2) == 11


def test_clear_gives_memory_back_and_the_cache_works_on():
    cache = filled()
    cache.clear()
    assert all(layer.keys is None for layer in cache.layers)
    cache.fit(0, 1, 2)
    cache.insert(0, prefilled(1, 2, 7), torch.tensor([0]), 2)
    assert keys(cache, 0, 1) == 7
