"""Surface features: what is counted, and that any text has finite numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.kinds.stacked.query_view import SURFACE, surface


def of(text: str) -> dict[str, float]:
    """Counts, that is e^x - 1 of what is given; shares and mean lengths mean nothing here."""
    return dict(zip(SURFACE, np.expm1(surface([text])[0]).round(6).tolist(), strict=True))


def test_counts_are_those_of_the_text() -> None:
    found = of("If Ann pays $2.50 for each of 3 pens, and half of 1,200 pens cost 10% more, how much is it?")
    told = {"quantities": 4, "largest": 1200, "percents": 1, "amounts": 1, "decimals": 1, "rates": 1, "multiples": 1}
    told |= {"relations": 2, "capitals": 2, "questions": 1, "words": 17}
    assert {name: found[name] for name in told} == told


def test_a_dot_that_ends_a_sentence_is_no_decimal() -> None:
    found = of("He had 12. She had 13.")
    assert (found["decimals"], found["quantities"], found["sentences"]) == (0, 2, 2)


def test_odd_numbers_have_a_size() -> None:
    for text in ("9" * 50_000, "1.2.3.4", "1,,2", "٣٤", "²", "1e999", "...", "0"):
        assert np.isfinite(surface([text])).all()


def test_no_texts_give_no_rows() -> None:
    assert surface([]).shape == (0, len(SURFACE))


@given(st.text(max_size=200))
def test_any_text_has_finite_numbers(text: str) -> None:
    row = surface([text])
    assert row.shape == (1, len(SURFACE)) and np.isfinite(row).all()
