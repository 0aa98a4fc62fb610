"""Data are checked as they are read, and their pools named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.validation import load_pair
from serve_app.errors import ConfigError, DataError
from tests.data.samples import answers, sums


@pytest.fixture
def data() -> Dataset:
    found = sums(60, seed=1)
    return replace(found, pools={**found.pools, "middle": answers("m-middle", [0.5] * 60)})


def test_further_pools_stay_for_routers_of_many(data: Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "d.parquet")
    assert set(load_pair(tmp_path / "d.parquet").pools) == {"small", "large", "middle"}


def test_other_pools_become_small_and_large(data: Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "d.parquet")
    found = load_pair(tmp_path / "d.parquet", "middle", "large", to_learn=False)
    assert {name: pool.model for name, pool in found.pools.items()} == {"small": "m-middle", "large": "m-large"}
    with pytest.raises(ConfigError, match="no pool 'huge'"):
        load_pair(tmp_path / "d.parquet", "small", "huge")


def test_what_cannot_be_used_is_refused_by_row(data: Dataset, tmp_path: Path) -> None:
    quality = data.weak.quality.copy()
    quality[7, 0] = np.nan
    broken = replace(data, pools={**data.pools, "small": replace(data.weak, quality=quality)})
    broken.save(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet, row 7"):
        load_pair(tmp_path / "d.parquet")
    data.take([]).save(tmp_path / "e.parquet")
    with pytest.raises(DataError, match="empty"):
        load_pair(tmp_path / "e.parquet")


def test_one_class_alone_may_be_measured_and_not_learned_from(data: Dataset, tmp_path: Path) -> None:
    hard = data.take([i for i, w in enumerate(data.strong_win_rate()) if w == 1.0])
    hard.save(tmp_path / "d.parquet")
    assert len(load_pair(tmp_path / "d.parquet")) == len(hard)
    with pytest.raises(DataError, match="one class"):
        load_pair(tmp_path / "d.parquet", to_learn=True)


def test_battles_come_along(data: Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "d.parquet")
    data.battles().save(tmp_path / "p.parquet")
    found = load_pair(tmp_path / "d.parquet", preferences=tmp_path / "p.parquet")
    assert found.preferences is not None and len(found.preferences) == 60
