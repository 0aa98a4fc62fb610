""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.data.overview import overview
from tests.data.samples import answers, sums


def test_what_it_says_is_so() -> None:
    data = replace(sums(100, seed=0), references=("42",) * 100)
    easy = data.weak.quality.mean()
    lines = list(overview(data, examples=2))
    text = "\n".join(lines)
    assert lines[0].startswith("100 queries, digest ") and data.digest() in lines[0] and "seed 0" in lines[1]
    (small,) = [line for line in lines if line.startswith("small ")]
    assert "m-small" in small and f"{easy:.4f} [" in small and "0.000001" in small and "10/2" in small
    low, high = (float(x) for x in small.split("[")[1].split("]")[0].split(","))
    assert low < easy < high
    assert f"oracle: quality 1.0000 with {100 * (1 - easy):.1f} % calls of large" in text
    assert f"equal on {100 * easy:.1f} %" in text and "(right: 42)" in text
    bars = [line for line in lines if line.startswith("  0.") and "%" in line]
    assert len(bars) == 10 and bars[0].endswith("#") and sum(float(b.split()[3]) for b in bars) == pytest.approx(100)


def test_what_is_not_known_is_not_made_up() -> None:
    data = sums(10, seed=0)
    data.weak.quality[:] = np.nan
    text = "\n".join(overview(replace(data, about={"not_recorded": ["cost_usd", "prompt_tokens"]})))
    assert "not scored" in text and "oracle" not in text and "0.000001" not in text
    alone = replace(data, pools={"mid": answers("m", [0.5] * 10)})
    assert "oracle" not in "\n".join(overview(alone))


def test_an_empty_dataset_has_no_figures() -> None:
    assert len(list(overview(sums(3, seed=0).take([])))) == 2
