"""The batch against the naive way: each prompt alone through the model, without a cache."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from serve_app.engines.transformers.batch import Batch
from serve_app.engines.transformers.loading import LoadedModel
from tests.engines.transformers.sequences import request

VOCABULARY = 40


def loaded(heads=2, key_value_heads=2) -> LoadedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config).eval()
    return LoadedModel(model, None, torch.device("cpu"), frozenset(), 256)


@pytest.fixture(scope="module", params=[(2, 2), (4, 2)], ids=["multi-head", "grouped-query"])
def model(request):
    return loaded(*request.param)


@torch.inference_mode()
def naive(model: LoadedModel, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def prompt(rng) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 90))]


@pytest.mark.slow
def test_rows_that_come_and_go_say_what_they_would_say_alone(model):
    rng, batch = random.Random(1), Batch(model)
    said: dict = {}
    for _ in range(36):
        if len(batch.sequences) < 6 and rng.random() < 0.6:
            joiners = [s for _ in range(rng.randint(1, 3)) for s in request(prompt(rng), n=rng.randint(1, 2)).sequences]
            for sequence, token, _ in batch.prefill(joiners):
                said[sequence] = [token]
        if batch.sequences:
            for sequence, token, _ in batch.decode():
                said[sequence].append(token)
            batch.leave([i for i in range(len(batch.sequences)) if rng.random() < 0.15])
    assert len(said) > 15
    for sequence, tokens in said.items():
        assert tokens == naive(model, sequence.request.prompt_ids, len(tokens))


@pytest.mark.slow
def test_every_pattern_of_leaving_keeps_the_others(model):
    rng = random.Random(2)
    prompts = [prompt(rng) for _ in range(4)]
    for pattern in range(16):
        batch = Batch(model)
        sequences = [request(p).sequences[0] for p in prompts]
        said = {s: [token] for s, token, _ in batch.prefill(sequences)}
        batch.leave([row for row in range(4) if pattern & 1 << row])
        kept = [s for row, s in enumerate(sequences) if not pattern & 1 << row]
        assert set(batch.sequences) == set(kept)
        for _ in range(3 if kept else 0):
            for s, token, _ in batch.decode():
                said[s].append(token)
        assert all(said[s] == naive(model, s.request.prompt_ids, 4) for s in kept)


def test_choices_share_their_prompt_s_reading(model):
    batch, lengths = Batch(model), []
    read = batch._read
    batch._read = lambda prompts, cache: lengths.append(len(prompts)) or read(prompts, cache)
    batch.prefill([*request(n=3).sequences, *request().sequences])
    assert lengths == [2]


@pytest.mark.slow
def test_growth_across_blocks_of_positions(model):
    batch, asked = Batch(model), request([1, 2, 3], room=200)
    said = [token for _, token, _ in batch.prefill(asked.sequences)]
    for _ in range(150):
        said += [token for _, token, _ in batch.decode()]
    assert said == naive(model, asked.prompt_ids, 151)


def test_after_a_reset_it_works_on(model):
    batch = Batch(model)
    batch.prefill(request().sequences)
    batch.reset()
    assert batch.sequences == []
    asked = request([4, 5])
    ((_, token, _),) = batch.prefill(asked.sequences)
    assert [token] == naive(model, asked.prompt_ids, 1)


def test_the_cache_is_freed_when_the_last_row_leaves(model):
    batch = Batch(model)
    batch.prefill(request().sequences)
    batch.leave([0])
    assert batch._cache.capacity_rows == 0


def test_logprobs_reach_their_rows(model):
    batch = Batch(model)
    plain, wanted = request().sequences[0], request(logprobs=True, top_logprobs=2).sequences[0]
    for sampled in (batch.prefill([plain, wanted]), batch.decode()):
        assert sampled[0][2] is None
        assert sampled[1][2].top[0][0] == sampled[1][1]
