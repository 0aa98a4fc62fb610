"""`jethro adapter`: from a folder to the registry that a running endpoint follows."""

import json

import pytest
import yaml

from serve_app.adapters import registry
from serve_app.cli.adapter import commands
from tests.lora import save_adapter
from tests.models import save_random_model

assert commands


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path, monkeypatch):
    """The names of these tests are free."""
    monkeypatch.setattr(registry, "shipped_dir", lambda: tmp_path / "shipped")


@pytest.fixture
def config(tmp_path, model):
    own = {"kind": "transformers", "path": str(model)}
    pools = {
        "small": {"model": "m", "engine": {**own, "adapters": {}}},
        "large": {"model": "l", "engine": own},
    }
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"pools": pools, "adapters": {"registry": str(tmp_path / "registry")}}))
    return str(file)


def test_add_list_show_pin_and_remove(run, config, tmp_path, model):
    assert "no adapters: add one with" in run("adapter", "list", "--config", config).stdout
    raw = save_adapter(tmp_path / "raw", model)
    refused = run("adapter", "add", str(raw), "--config", config)
    assert refused.exit_code == 2 and "give a name and the base (it was trained on" in refused.stderr
    options = ("--name", "tone", "--base", "small", "--task", "tone", "--licence", "mit", "--config", config)
    added = run("adapter", "add", str(raw), *options)
    assert added.exit_code == 0, added.stderr
    assert "tone: rank 4" in added.stdout and "request it as the model m:tone" in added.stdout
    assert "pools.large runs" in added.stderr and "set pools.large.engine.adapters to {}" in added.stderr
    taken = run("adapter", "add", str(raw), *options)
    assert taken.exit_code == 2 and "there is an adapter 'tone'" in taken.stderr
    assert run("adapter", "add", str(raw), *options, "--replace").exit_code == 0
    cells = run("adapter", "list", "--config", config).stdout.splitlines()[-1].split("|")
    assert [cell.strip() for cell in cells[1:7]] == ["tone", str(model), "tone", "4", "0.01", "mit"]
    assert run("adapter", "pin", "tone", "--config", config).stdout == "adapter tone is pinned\n"
    shown = json.loads(run("adapter", "show", "tone", "--config", config).stdout)
    assert (shown["id"], shown["pinned"], shown["rank"], shown["base"]) == ("tone", True, 4, str(model))
    assert "no longer pinned" in run("adapter", "pin", "tone", "--off", "--config", config).stdout
    assert [a["id"] for a in json.loads(run("adapter", "list", "--json", "--config", config).stdout)] == ["tone"]
    assert run("adapter", "remove", "tone", "--config", config).stdout == "adapter tone is removed\n"
    gone = run("adapter", "remove", "tone", "--config", config)
    assert gone.exit_code == 2 and "no adapter 'tone'" in gone.stderr


def test_what_cannot_be_used_is_listed_with_the_reason(run, config, tmp_path, model):
    save_adapter(tmp_path / "registry" / "bad", model, name="bad", config={"use_dora": True})
    listed = run("adapter", "list", "--config", config)
    assert listed.exit_code == 0 and "not usable:" in listed.stderr and "use_dora" in listed.stderr


def test_a_folder_of_pickles_is_refused(run, config, tmp_path, model):
    raw = save_adapter(tmp_path / "raw", model)
    (raw / "adapter_model.safetensors").rename(raw / "adapter_model.bin")
    refused = run("adapter", "add", str(raw), "--name", "x", "--base", "small", "--config", config)
    assert refused.exit_code == 2 and "a pickle runs code" in refused.stderr
