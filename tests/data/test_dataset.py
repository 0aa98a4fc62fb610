""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.data.dataset import MEASURES, Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.types import Message, Query
from tests.data.samples import answers, sums


def test_win_rate_counts_all_pairs_of_samples() -> None:
    weak, strong = answers("w", [0.0], 2), answers("s", [0.0], 2)
    weak.quality[0], strong.quality[0] = [0.0, 0.6], [0.5, 1.0]
    one = Dataset((Query((Message("user", "q"),)),), {"small": weak, "large": strong}, ("",))
    assert one.strong_win_rate().tolist() == [0.75]
    assert one.strong_win_rate(margin=0.45).tolist() == [0.5]
    assert one.strong_win_rate(margin=1.0).tolist() == [0.0]


def test_take_keeps_rows_together_and_digest_tells_data_apart() -> None:
    whole = sums(20, seed=1)
    part = whole.take([3, 1])
    assert [q.text for q in part.queries] == [whole.queries[3].text, whole.queries[1].text]
    assert part.weak.quality[:, 0].tolist() == whole.weak.quality[[3, 1], 0].tolist()
    assert part.digest() != whole.digest() == sums(20, seed=1).digest()


def test_digest_hears_every_column() -> None:
    """One value changed anywhere is other data; the sign or payload of a nan is not."""
    base = sums(3, seed=1)
    weak = base.weak
    changed = [
        replace(base, ids=("0", "1", "x")),
        replace(base, groups=("sums", "sums", "x")),
        replace(base, references=(None, None, "x")),
        base.take([1, 0, 2]),
        *(
            replace(base, pools={**base.pools, "small": replace(weak, **{name: getattr(weak, name) + 1.0})})
            for name in MEASURES[:-1]
        ),
        replace(base, pools={**base.pools, "small": replace(weak, latency_ms=weak.quality)}),
        replace(base, pools={**base.pools, "small": replace(weak, model="x")}),
        replace(base, pools={**base.pools, "small": replace(weak, texts=(("x",), *weak.texts[1:]))}),
    ]
    assert len({d.digest() for d in [base, *changed]}) == len(changed) + 1
    nans = [replace(base, pools={"small": replace(weak, quality=s * np.full((3, 1), np.nan))}) for s in (1.0, -1.0)]
    assert nans[0].digest() == nans[1].digest()


def test_shapes_are_checked() -> None:
    good = answers("m", [1.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        answers("m", [float("inf")])
    with pytest.raises(ValueError, match="cost_usd"):
        PoolAnswers("m", good.texts, good.quality, good.cost_usd[:1], good.prompt_tokens, good.completion_tokens)
    with pytest.raises(ValueError, match="texts"):
        PoolAnswers("m", good.texts[:1], good.quality, good.cost_usd, good.prompt_tokens, good.completion_tokens)
    with pytest.raises(ValueError, match="samples"):
        PoolAnswers("m", (), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))
    with pytest.raises(ValueError, match="answers of small"):
        Dataset((), {"small": good}, ())
    queries = (Query((Message("user", "a"),)), Query((Message("user", "b"),)))
    with pytest.raises(ValueError, match="1 different ids"):
        Dataset(queries, {"small": good}, ("", ""), ids=("x", "x"))


def test_a_pair_of_pools_goes_under_the_names_of_routing() -> None:
    query = Query((Message("user", "a"),))
    three = Dataset((query,), {"a": answers("A", [0.0]), "b": answers("B", [0.5]), "c": answers("C", [1.0])}, ("",))
    pair = three.pair("a", "c")
    assert (pair.weak.model, pair.strong.model) == ("A", "C")
    with pytest.raises(ConfigError, match=r"'d'.* a, b, c"):
        three.pair("a", "d")
