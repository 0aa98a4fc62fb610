"""Batches of different adapters, against a model alone that has the adapter's product added to its weights."""

import copy
import random

import pytest
import torch

from serve_app.adapters.card import read_card
from serve_app.engines.transformers.batch import Batch
from serve_app.engines.transformers.loading import LoadedModel, load_model
from serve_app.engines.transformers.lora import LoraStack, load_weights
from serve_app.errors import InvalidAdapter
from tests.engines.transformers.sequences import request
from tests.lora import save_adapter
from tests.models import save_random_model, settings_for

TARGETS = (
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ("down_proj",),
    ("q_proj", "up_proj"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder):
    return load_model(settings_for(folder))


@pytest.fixture(scope="module")
def adapters(folder, tmp_path_factory):
    """Of different modules and ranks, and last the base model."""
    place = tmp_path_factory.mktemp("adapters")
    saved = [
        save_adapter(place / f"a{i}", folder, name=f"a{i}", seed=i, rank=2 + 3 * i, targets=targets, strength=0.4)
        for i, targets in enumerate(TARGETS)
    ]
    return [*(load_weights(read_card(f), torch.device("cpu"), torch.float32) for f in saved), None]


@pytest.fixture(scope="module")
def merged(folder, adapters):
    """By adapter, a model of its own."""
    models = {}
    plain = load_model(settings_for(folder)).model
    for adapter in adapters:
        own = models[adapter] = copy.deepcopy(plain)
        for module, (down, up) in adapter.pairs.items() if adapter else ():
            with torch.no_grad():
                own.get_submodule(module).weight += (down @ up).T
    return models


@torch.inference_mode()
def naive(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def asked(rng, adapter, model: LoadedModel, n=1):
    made = request([rng.randrange(model.model.config.vocab_size) for _ in range(rng.randint(1, 40))], n=n)
    made.adapter = adapter
    return made


@pytest.mark.slow
def test_rows_of_any_adapter_that_come_and_go_say_what_they_would_say_alone(model, adapters, merged):
    rng, batch = random.Random(1), Batch(model)
    said: dict = {}
    for _ in range(60):
        if len(batch.sequences) < 8 and rng.random() < 0.6:
            joiners = [
                s
                for _ in range(rng.randint(1, 3))
                for s in asked(rng, rng.choice(adapters), model, rng.randint(1, 2)).sequences
            ]
            for sequence, token, _ in batch.prefill(joiners):
                said[sequence] = [token]
        if batch.sequences:
            for sequence, token, _ in batch.decode():
                said[sequence].append(token)
            batch.leave([i for i in range(len(batch.sequences)) if rng.random() < 0.15])
    assert len({s.request.adapter for s in said}) == len(adapters) and len(said) > 30
    for sequence, tokens in said.items():
        assert tokens == naive(merged[sequence.request.adapter], sequence.request.prompt_ids, len(tokens))
    answers = {a: naive(merged[a], [5, 6, 7], 6) for a in adapters}
    assert len(set(map(tuple, answers.values()))) == len(adapters), "the adapters differ, or the test sees nothing"


def test_one_adapter_for_all_rows_and_then_none(model, adapters, merged):
    rng, batch = random.Random(2), Batch(model)
    for adapter in (adapters[1], None):
        sequences = [asked(rng, adapter, model).sequences[0] for _ in range(3)]
        said = {s: [token] for s, token, _ in batch.prefill(sequences)}
        for _ in range(4):
            for s, token, _ in batch.decode():
                said[s].append(token)
        assert all(said[s] == naive(merged[adapter], s.request.prompt_ids, 5) for s in sequences)
        batch.leave(list(range(3)))
    assert not any(module._forward_hooks for module in model.model.modules()), "nothing stays on the model"


def test_the_stack_holds_what_the_batch_needs(model, adapters):
    stack = LoraStack(model.model)
    stack.select(adapters[:3])
    assert len(stack._members) == 3
    stack.select([adapters[0]])
    assert len(stack._members) == 1, "most of it was used no more"
    stack.select([adapters[1]], others=[adapters[0], None])
    assert set(stack._members) == set(adapters[:2]), "the running rows' adapter stays for their next step"
    stack.clear()
    assert not stack._members and not any(module._forward_hooks for module in model.model.modules())


@pytest.mark.slow
def test_logits_are_those_of_peft(folder, model, adapters, tmp_path):
    peft = pytest.importorskip("peft")
    saved = save_adapter(tmp_path / "a", folder, name="a", seed=5, rank=8, targets=TARGETS[1], config={"lora_alpha": 3})
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model.model), str(saved)).eval()
    stack = LoraStack(model.model)
    ids = torch.arange(3, 27).reshape(2, 12)
    with torch.inference_mode():
        stack.select([load_weights(read_card(saved), model.device, model.model.dtype), adapters[0]])
        ours = model.model(ids).logits
        stack.clear()
        assert torch.allclose(ours[0], theirs(ids[:1]).logits[0], atol=1e-4)
        assert not torch.allclose(ours[0], model.model(ids).logits[0], atol=1e-2)


@pytest.mark.slow
def test_a_scale_by_the_root_of_the_rank(folder, model, tmp_path):
    plain = save_adapter(tmp_path / "plain", folder, name="a", rank=4)
    rooted = save_adapter(tmp_path / "rooted", folder, name="a", rank=4, config={"use_rslora": True})
    one, two = (load_weights(read_card(f), model.device, torch.float32) for f in (plain, rooted))
    for module, (_, up) in one.pairs.items():
        assert torch.allclose(up * 2, two.pairs[module][1])


def test_numbers_that_are_not_finite_are_refused(folder, model, tmp_path):
    saved = save_adapter(tmp_path / "a", folder, name="a", strength=float("inf"))
    with pytest.raises(InvalidAdapter, match="holds numbers that are not finite"):
        load_weights(read_card(saved), model.device, torch.float32)
