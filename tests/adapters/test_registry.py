"""The registry: what it takes, what it refuses, and many writers at once."""

import json
import pickle
import re
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.adapters import registry as registry_module
from serve_app.adapters.registry import AdapterRegistry
from serve_app.errors import Conflict, InvalidAdapter, JethroError, ModelNotFound
from tests.lora import base_of, registry_settings, save_adapter
from tests.models import save_random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path, monkeypatch):
    """The names of these tests are free."""
    monkeypatch.setattr(registry_module, "shipped_dir", lambda: tmp_path / "shipped")


@pytest.fixture
def registry(tmp_path):
    return AdapterRegistry(registry_settings(tmp_path))


@pytest.fixture
def source(tmp_path, model):
    return save_adapter(tmp_path / "source", model, name="sort", about={"task": "sort", "licence": "Apache-2.0"})


def test_what_is_added_is_found_by_every_registry_of_the_folder(registry, source, tmp_path, model):
    card = registry.add(source)
    other = AdapterRegistry(registry_settings(tmp_path))
    assert set(other.all()) == {"sort"} and other.find("sort") == card
    shown = card.to_json()
    assert (shown["id"], shown["task"], shown["licence"], shown["rank"]) == ("sort", "sort", "Apache-2.0", 4)
    assert shown["base_sha256"] == base_of(model).sha256
    assert shown["bytes"] == (source / "adapter_model.safetensors").stat().st_size
    assert shown["parameters"] == sum(t.numel() for t in load_file(source / "adapter_model.safetensors").values())
    other.check(card, base_of(model))


def test_an_import_from_elsewhere_is_bound_to_the_base_given(registry, tmp_path, model):
    foreign = save_adapter(tmp_path / "foreign", model)
    with pytest.raises(InvalidAdapter, match=r"has no jethro_adapter\.json.*give a name and the base.*trained on"):
        registry.add(foreign)
    card = registry.add(foreign, name="mine", base=str(model), task="sort")
    assert (card.name, card.about.base_sha256, card.about.task) == ("mine", base_of(model).sha256, "sort")


def test_a_name_is_taken_once_unless_replaced(registry, source, tmp_path, model):
    first = registry.add(source)
    with pytest.raises(Conflict, match="remove it first, replace it, or give another name"):
        registry.add(source)
    changed = save_adapter(tmp_path / "changed", model, name="sort", seed=9)
    second = registry.add(changed, replacing=True)
    assert second.version != first.version and registry.find("sort") == second
    assert first.folder.is_dir(), "a load of the version before may be under way"
    third = registry.add(save_adapter(tmp_path / "third", model, name="sort", seed=10), replacing=True)
    assert not first.folder.exists() and second.folder.is_dir() and registry.find("sort") == third
    assert registry.add(source, replacing=True).version == first.version, "the same files are the same version"


def test_removed_pinned_and_unknown(registry, source):
    registry.add(source)
    assert registry.pin("sort").pinned and registry.get("sort").pinned
    assert not registry.pin("sort", False).pinned and not registry.get("sort").pinned
    registry.remove("sort")
    assert registry.all() == {} and registry.find("sort") is None
    for change in (registry.remove, registry.pin, registry.get):
        with pytest.raises(ModelNotFound, match=r"no adapter 'sort': there are none; add one with"):
            change("sort")
    registry.add(source)
    assert not registry.get("sort").pinned, "a pin goes with its adapter"


def test_what_ships_is_listed_and_cannot_be_changed(registry, tmp_path, model, monkeypatch):
    monkeypatch.setattr(registry_module, "shipped_dir", lambda: tmp_path / "shipped")
    save_adapter(tmp_path / "shipped" / "reverse", model, name="reverse")
    card = registry.get("reverse")
    assert card.shipped and set(registry.all()) == {"reverse"}
    registry.check(card, base_of(model))
    for change in (
        lambda: registry.add(tmp_path / "shipped" / "reverse"),
        lambda: registry.remove("reverse"),
        lambda: registry.pin("reverse"),
    ):
        with pytest.raises(Conflict, match="ships with Jethro"):
            change()


def test_a_folder_that_was_trained_into_the_registry_serves_as_it_is(registry, model):
    trained = save_adapter(registry.folder / "tone", model, name="tone")
    first = registry.get("tone")
    registry.check(first, base_of(model))
    with pytest.raises(Conflict, match="there is an adapter 'tone'"):
        registry.add(trained)
    save_adapter(registry.folder / "tone", model, name="tone", seed=7)
    assert registry.get("tone").version != first.version and registry.pin("tone").pinned
    registry.remove("tone")
    assert registry.all() == {}


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", "A", "-a", ".hidden", "a b", "ä", "a" * 65, "a:b", "x\n"])
def test_names_that_are_no_names(registry, tmp_path, model, name):
    foreign = save_adapter(tmp_path / "foreign", model)
    with pytest.raises(InvalidAdapter, match="use a-z, 0-9, _ and -"):
        registry.add(foreign, name=name, base=str(model))
    assert registry.find(name) is None
    save_adapter(tmp_path / "described", model, name=name)
    with pytest.raises(InvalidAdapter, match="use a-z, 0-9, _ and -"):
        registry.add(tmp_path / "described")
    assert not registry.folder.exists()


def test_a_rank_or_a_size_above_the_bounds(tmp_path, model):
    high = save_adapter(tmp_path / "high", model, name="high", rank=12)
    with pytest.raises(InvalidAdapter, match=r"rank 12 is above adapters\.max_rank \(8\)"):
        AdapterRegistry(registry_settings(tmp_path, max_rank=8)).add(high)
    assert AdapterRegistry(registry_settings(tmp_path, max_rank=12)).add(high).files.rank == 12
    wide = save_adapter(tmp_path / "wide", model, name="wide", rank=160, targets=("_proj",))
    assert (wide / "adapter_model.safetensors").stat().st_size > 2**20
    with pytest.raises(InvalidAdapter, match=r"adapters\.max_mib allows 1: raise it"):
        AdapterRegistry(registry_settings(tmp_path, max_mib=1, max_rank=160)).add(wide)


def test_an_adapter_of_another_base_is_refused(registry, source, tmp_path, model):
    card = registry.add(source)
    other = save_random_model(tmp_path / "other", seed=1)
    with pytest.raises(InvalidAdapter, match=r"belongs to .* and not to .*: request it from a pool that runs its base"):
        registry.check(card, base_of(other))
    with pytest.raises(InvalidAdapter, match="belongs to"):
        registry.add(source, name="again", base=str(other))
    again = tmp_path / "versions"
    save_random_model(again, seed=2)
    bound = registry.add(save_adapter(tmp_path / "bound", again, name="bound"))
    save_random_model(again, seed=3)
    with pytest.raises(InvalidAdapter, match=r"was trained on another version of .*: train it again on this version"):
        registry.check(bound, base_of(again))


def test_files_that_change_after_they_were_added_are_refused(registry, source, model):
    card = registry.add(source)
    file = card.folder / "adapter_model.safetensors"
    save_file({k: t + 1 for k, t in load_file(file).items()}, file)
    with pytest.raises(InvalidAdapter, match="have changed since it was added"):
        registry.check(card, base_of(model))


def _truncate(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def _noise(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"\x07" * 500)


def _pickled(folder):
    with (folder / "adapter_model.safetensors").open("wb") as file:
        pickle.dump({"a": 1}, file)


def _torch_saved(folder):
    torch.save({"a": torch.zeros(2)}, folder / "adapter_model.safetensors")


def _only_bin(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def _empty_weights(folder):
    save_file({}, folder / "adapter_model.safetensors")


def _tensors(change):
    def apply(folder):
        file = folder / "adapter_model.safetensors"
        save_file({k: t.contiguous() for k, t in change(load_file(file)).items()}, file)

    return apply


def _without_one(tensors):
    return dict(list(tensors.items())[1:])


def _quantized(tensors):
    return {k: t.to(torch.int8) for k, t in tensors.items()}


def _other_module(tensors):
    return {k.replace("q_proj", "magic_proj"): t for k, t in tensors.items()}


def _narrow(tensors):
    return {k: t[:, :-1] if "lora_A" in k else t for k, t in tensors.items()}


def _extra(tensors):
    return {**tensors, "base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 4)}


def _config(**changes):
    def apply(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged"),
        (_noise, "is damaged"),
        (_pickled, "is a pickle under another name, and is refused"),
        (_torch_saved, "is a pickle under another name, and is refused"),
        (_only_bin, r"has adapter_model\.bin and no adapter_model\.safetensors: a pickle runs code"),
        (_no_weights, r"has no adapter_model\.safetensors"),
        (_empty_weights, "holds no tensor"),
        (_tensors(_without_one), "has one of lora_A and lora_B"),
        (_tensors(_quantized), "holds I8; adapters are of F32, F16, BF16"),
        (_tensors(_other_module), "magic_proj, which .* does not have: the adapter is of another model"),
        (_tensors(_narrow), r"takes 63 and returns .*, but in .* it takes 64"),
        (_tensors(_extra), "lora_embedding_A' is no LoRA matrix of a linear module"),
        (_config(r=8), "says rank 8: the files are not of one adapter"),
        (_config(r=0), "r must be a whole number from 1"),
        (_config(r=True), "r must be a whole number from 1"),
        (_config(lora_alpha="x"), "lora_alpha a number above 0"),
        (_config(peft_type="IA3"), "peft_type is 'IA3'; only LORA"),
        (_config(use_dora=True), "use_dora is set, which is not supported"),
        (_config(modules_to_save=["lm_head"]), "modules_to_save is set"),
        (_config(rank_pattern={"q_proj": 2}), "rank_pattern is set"),
        (_config(bias="all"), "bias is 'all'; train the adapter with bias none"),
        (_config(init_lora_weights="pissa"), "changes the base model's weights as well"),
        (_text("adapter_config.json", "{"), r"adapter_config\.json: cannot be read"),
        (_text("adapter_config.json", "[]"), "must be a JSON object"),
        (_text("adapter_config.json", "[" * 100_000), "cannot be read"),
        (_text("jethro_adapter.json", '{"name": "sort"}'), "name and base must be texts"),
        (_text("jethro_adapter.json", '{"name": "sort", "base": "b", "base_sha256": "1"}'), "64 hexadecimal digits"),
        (lambda folder: (folder / "adapter_config.json").unlink(), r"adapter_config\.json: no such file"),
    ],
)
def test_damaged_or_dangerous_files(registry, source, damage, message):
    damage(source)
    with pytest.raises(InvalidAdapter, match=re.compile(message, re.DOTALL)):
        registry.add(source)
    assert registry.all() == {}


def test_a_folder_that_is_not_there(registry, tmp_path):
    with pytest.raises(InvalidAdapter, match="no such folder"):
        registry.add(tmp_path / "nowhere")


def test_a_damaged_adapter_of_the_folder_hides_no_other(registry, source, tmp_path, model):
    registry.add(source)
    card = registry.add(save_adapter(tmp_path / "second", model, name="second"))
    (card.folder / "adapter_config.json").write_text("{")
    fresh = AdapterRegistry(registry.settings)
    assert set(fresh.all()) == {"sort"}
    assert "adapter_config.json" in fresh.faults["second"]
    (registry.folder / "sort" / "current").write_text("../second")
    assert AdapterRegistry(registry.settings).all() == {}


@pytest.mark.slow
def test_many_writers_at_once_leave_a_whole_adapter_or_none(registry, tmp_path, model):
    sources = [save_adapter(tmp_path / f"source-{i}", model, name="busy", seed=i) for i in range(3)]
    unexpected: list[BaseException] = []
    stop = threading.Event()

    def write(number):
        mine = AdapterRegistry(registry.settings)
        for turn in range(30):
            try:
                if turn % 3 == 2:
                    mine.remove("busy")
                else:
                    mine.add(sources[number], replacing=turn % 2 == 0)
            except (Conflict, ModelNotFound):
                pass
            except (OSError, JethroError) as e:
                unexpected.append(e)

    def read():
        while not stop.is_set():
            reader = AdapterRegistry(registry.settings)
            try:
                card = reader.find("busy")
            except JethroError as e:
                unexpected.append(e)
                continue
            if card is not None and card.name != "busy":
                unexpected.append(AssertionError(card))

    writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert unexpected == []
    registry.add(sources[0], replacing=True)
    registry.check(AdapterRegistry(registry.settings).get("busy"), base_of(model))
