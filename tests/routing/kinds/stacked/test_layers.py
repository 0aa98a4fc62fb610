"""Views of an encoder's layers: they are the means that they say they are, and bring the sentence vector along."""

import numpy as np
import pytest
import torch

from serve_app.learning.encoder import SentenceEncoder, encoder_folder, load_encoder
from serve_app.routing.kinds.stacked.query_view import END, SURFACE, LayerViews, QueryView, layer_views, surface

LONG = "A farmer has 12 cows and buys twice as many goats as cows every year. " * 3 + "How many animals are there?"
TEXTS = [LONG, "hi", "", "\ud800?"]


@pytest.fixture(scope="module")
def views() -> LayerViews:
    """Views of the encoder in float32, also on a CPU where it would multiply in bfloat16: the tolerances need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve_app.learning.encoder.has_bfloat16", lambda: False)
        encoder = SentenceEncoder("minilm", encoder_folder("minilm"))
        assert encoder._model
    return LayerViews(encoder)


def test_blocks_are_means_of_all_tokens_and_of_the_last(views: LayerViews) -> None:
    encoder = views.encoder
    inputs = encoder._tokenizer([LONG], return_tensors="pt")
    with torch.inference_mode():
        layers = encoder._model(**inputs, output_hidden_states=True).hidden_states
    row = views.embed([LONG])[0].reshape(4, -1)
    for block, layer in ((0, 2), (2, 4)):
        tokens = layers[layer][0]
        np.testing.assert_allclose(row[block], tokens.mean(0), atol=1e-4)
        np.testing.assert_allclose(row[block + 1], tokens[-1 - END : -1].mean(0), atol=1e-4)


def test_texts_in_one_batch_do_not_touch_one_another(views: LayerViews) -> None:
    together = LayerViews(views.encoder).embed(TEXTS)
    alone = np.stack([LayerViews(views.encoder).embed([t])[0] for t in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.isfinite(together).all()
    assert views.embed([]).shape == (0, views.columns)


def test_a_pass_leaves_the_sentence_vector_with_the_encoder() -> None:
    encoder = SentenceEncoder("minilm", encoder_folder("minilm"))
    LayerViews(encoder).embed(["what is 3 + 4?"])
    kept = encoder.cached("what is 3 + 4?")
    assert kept is not None
    np.testing.assert_allclose(kept, load_encoder().embed(["what is 3 + 4?"])[0], atol=1e-5)


def test_one_for_the_whole_process() -> None:
    assert layer_views("minilm") is layer_views("minilm")


def test_rows_have_length_one_and_their_shares(views: LayerViews) -> None:
    texts = [f"{LONG[: 40 + 7 * i]} {i}?" for i in range(30)]
    layers, looks = views.embed(texts), surface(texts)
    view = QueryView.fit(layers, looks)
    rows = view.rows(layers, looks)
    assert float((rows**2).sum(1).mean()) == pytest.approx(1.0, abs=0.05)
    assert float((rows[:, -len(SURFACE) :] ** 2).sum(1).mean()) == pytest.approx(0.2, abs=0.05)
    assert len(view.groups(views.views)) == rows.shape[1]
    again = QueryView.from_arrays(view.arrays(), views.columns)
    assert (again.rows(layers, looks) == rows).all()
    with pytest.raises(ValueError, match="views"):
        QueryView.from_arrays(view.arrays(), views.columns + 1)


def test_an_absurd_text_stays_within_bounds(views: LayerViews) -> None:
    texts = [f"what is {i} + {i}?" for i in range(20)]
    view = QueryView.fit(views.embed(texts), surface(texts))
    odd = ["9" * 50_000]
    assert float((view.rows(views.embed(odd), surface(odd)) ** 2).sum()) <= 25.0 + 1e-3
