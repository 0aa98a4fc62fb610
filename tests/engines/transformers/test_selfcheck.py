import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from serve_app.engines.transformers.batch import Batch
from serve_app.engines.transformers.loading import LoadedModel
from serve_app.engines.transformers.worker import check_batching
from serve_app.errors import ConfigError


@pytest.fixture
def loaded():
    """Another architecture than the lab's: learned positions instead of rotary ones."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    return LoadedModel(GPT2LMHeadModel(config).eval(), None, torch.device("cpu"), frozenset(), 64)


def test_a_model_that_can_be_batched_passes(loaded):
    batch = Batch(loaded)
    check_batching(batch, loaded)
    assert batch.sequences == []


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
def test_a_model_that_ignores_an_input_is_found_out(loaded, ignored):
    batch, model = Batch(loaded), loaded.model

    def careless(**inputs):
        if ignored in inputs:
            inputs[ignored] = torch.ones_like(inputs[ignored])
        return model(**inputs)

    batch._model = careless
    with pytest.raises(ConfigError, match="batch"):
        check_batching(batch, loaded)
