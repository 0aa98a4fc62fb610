""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.data.validation import PAIR, check_scored
from serve_app.errors import ConfigError
from tests.data.samples import sums


def test_what_cannot_teach_is_refused_with_row_and_mend() -> None:
    data = sums(10, seed=1)
    check_scored(data, "knn")
    with pytest.raises(ConfigError, match=r"knn: .*empty"):
        check_scored(data.take([]), "knn")
    with pytest.raises(ConfigError, match="no pool 'small'"):
        check_scored(replace(data, pools={"large": data.strong}), "knn")
    quality = data.weak.quality.copy()
    quality[3] = np.nan
    pools = {**data.pools, "other": replace(data.weak, quality=quality)}
    with pytest.raises(ConfigError, match="'3' of pool other"):
        check_scored(replace(data, pools=pools), "knn")
    check_scored(replace(data, pools=pools), "knn", PAIR)
