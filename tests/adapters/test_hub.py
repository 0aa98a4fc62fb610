"""Adapters from the hub, with a double of the hub's client: what is listed decides, and three files are fetched."""

from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from serve_app.adapters.hub import download, is_hub_id
from serve_app.errors import InvalidAdapter

FILES = {"adapter_config.json": 500, "adapter_model.safetensors": 1000, "adapter_model.bin": 1000, "README.md": 10}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What was fetched, in order; `files` is what the repository holds."""
    found = SimpleNamespace(files=dict(FILES), fetched=[], error=None)

    def model_info(self, repo, *, revision=None, files_metadata=False):
        if found.error is not None:
            raise found.error
        assert files_metadata
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in found.files.items()]
        return SimpleNamespace(siblings=siblings)

    def snapshot_download(repo, *, revision, allow_patterns, ignore_patterns):
        found.fetched.append((repo, revision, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return found


def test_ids_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("someone/lora") and is_hub_id("Some-One/lo.ra_1")
    (tmp_path / "var" / "mine").mkdir(parents=True)
    for folder in ("var/mine", "/a/b", "./a/b", "a", "a/b/c", "../a", "", "a/b\n"):
        assert not is_hub_id(folder)


def test_three_files_are_fetched_and_no_pickle(hub, tmp_path):
    assert download("someone/lora", revision="v1", max_bytes=1000) == Path(tmp_path)
    ((repo, revision, files),) = hub.fetched
    assert (repo, revision) == ("someone/lora", "v1")
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "jethro_adapter.json"}


def test_what_is_too_large_or_a_pickle_is_not_fetched(hub):
    with pytest.raises(InvalidAdapter, match=r"above adapters\.max_mib"):
        download("someone/lora", max_bytes=999)
    del hub.files["adapter_model.safetensors"]
    with pytest.raises(InvalidAdapter, match=r"has no adapter_model\.safetensors; other formats may run code"):
        download("someone/lora", max_bytes=1000)
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("status", "said"), [(404, "no such repository"), (401, "set HF_TOKEN"), (500, "cannot be downloaded")]
)
def test_a_refusal_of_the_hub(hub, status, said):
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub/x"))
    hub.error = HfHubHTTPError("refused", response=response)
    with pytest.raises(InvalidAdapter, match=said):
        download("someone/lora", max_bytes=1000)


def test_without_a_network(hub):
    hub.error = OSError("no route")
    with pytest.raises(InvalidAdapter, match="without a network, copy the adapter's folder"):
        download("someone/lora", max_bytes=1000)
