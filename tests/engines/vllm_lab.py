"""One real vLLM engine for all tests that want one: half a minute to start, so it is started once."""

from pathlib import Path

from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.engines import VllmSettings as Settings
from serve_app.lab import models_dir
from serve_app.lab.model import SIZES, build_tokenizer, new_model
from tests.lora import registry_settings, save_adapter

MODEL = "jlab-small"
ADAPTER = "loud"
MAX_RUNNING = 32
MAX_WAITING = 8


def model_folder(folder: Path) -> Path:
    """The lab's small model; where its weights are not built yet, one of the same shape with random weights."""
    built = models_dir() / "small"
    if (built / "model.safetensors").is_file():
        return built
    new_model(SIZES["small"], seed=3).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def registry(folder: Path) -> AdaptersConfig:
    """Where `settings` put the adapter."""
    return registry_settings(folder)


def settings(folder: Path) -> Settings:
    model = model_folder(folder / "model")
    AdapterRegistry(registry(folder)).add(save_adapter(folder / "adapter", model, name=ADAPTER, seed=5))
    return Settings(
        path=str(model),
        cpu_kv_cache_gib=1,
        tool_parser="hermes",
        adapters={"max_loaded": 2, "max_in_batch": 2, "max_rank": 8},
        max_waiting=MAX_WAITING,
        # A model that never saw JSON writes blanks for ever where the grammar lets it.
        args={
            "max_num_seqs": MAX_RUNNING,
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        },
    )
